"""Atomic writing of files: the one place that creates or replaces any.

A new content goes to a temporary file beside its target and takes the target's place at the end,
so that a file is written whole or not at all, also if the power fails. The name of a temporary file
carries the process that writes it: what a killed process left is deleted by the next write into the
same folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, BinaryIO, cast

from flyweight.errors import CheckpointError

__all__ = ["FilePath", "check_output", "remove_stale", "replacing", "spool_for", "write_atomic"]

FilePath = str | os.PathLike[str]

_LONGEST_NAME = 100  # bytes of the target's name in that of a temporary file


def _process_space() -> str:
    """Name the host and, on Linux, the namespace in which a process has its number.

    Hosts and containers may share a folder, and each numbers its processes from 1.
    """
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        namespace = ""
    return hashlib.sha256(f"{platform.node()} {namespace}".encode()).hexdigest()[:8]


_SPACE = _process_space()
_TEMPORARY = re.compile(rf"\..*\.{_SPACE}-(\d+)-[0-9a-f]{{16}}\.flytmp", re.DOTALL)


def check_output(path: FilePath, *, inputs: Iterable[FilePath] = (), force: bool = True) -> None:
    """Check that a file can be written, before any work is done for it.

    Args:
        path: the file to write. Symbolic links are followed.
        inputs: files that are read for it; ones that do not exist are ignored.
        force: False refuses a regular file that exists.

    Raises:
        CheckpointError: the path is a folder, a block device or a socket, its folder does not
            exist or cannot be written, it is one of the inputs, under whatever name, or it exists
            and ``force`` is False.

    Example:
        >>> check_output("missing/model.fly")
        Traceback (most recent call last):
        flyweight.errors.CheckpointError: the folder .../missing does not exist; create it first
    """
    status = _status(path)
    if status is not None:
        _check_existing(path, status, inputs=inputs, force=force)
        if not stat.S_ISREG(status.st_mode):
            return
    folder = _target(path).parent
    if not folder.is_dir():
        raise CheckpointError(f"the folder {folder} does not exist; create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise CheckpointError(f"the folder {folder} cannot be written; choose another")


def _status(path: FilePath) -> os.stat_result | None:
    """Return the status of what a path names, links followed, or None if nothing is there."""
    try:
        return Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(
            f"{os.fspath(path)!r} cannot be written ({reason}); name another file"
        ) from error


def _check_existing(
    path: FilePath, status: os.stat_result, *, inputs: Iterable[FilePath], force: bool
) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFDIR:
        raise CheckpointError(f"{os.fspath(path)} is a folder; name the file to write")
    if kind in (stat.S_IFBLK, stat.S_IFSOCK):
        what = "block device" if kind == stat.S_IFBLK else "socket"
        raise CheckpointError(f"{os.fspath(path)} is a {what}; name a file to write")
    if kind != stat.S_IFREG:
        return
    for source in inputs:
        with contextlib.suppress(OSError, ValueError):
            if os.path.samestat(Path(source).stat(), status):
                raise CheckpointError(
                    f"{os.fspath(path)} is an input of this operation, which it would overwrite; "
                    "name another output"
                )
    if not force:
        raise CheckpointError(_exists_already(path))


def _exists_already(path: FilePath) -> str:
    return (
        f"{os.fspath(path)} exists already; pass force=True to replace it, or name another output"
    )


def _target(path: FilePath) -> Path:
    return Path(os.path.realpath(path))


@contextlib.contextmanager
def replacing(
    path: FilePath, *, inputs: Iterable[FilePath] = (), force: bool = True
) -> Iterator[BinaryIO]:
    """Open a file that takes the place of ``path`` when the block ends without an error.

    On an error nothing changes. A symbolic link stays, and its target is replaced. A new file has
    the mode that the umask gives, an existing one keeps its mode and, where permitted, its owner.
    A character device or FIFO is not replaced: the bytes are written into it at the end.

    Args:
        path: the file to write.
        inputs: as in `check_output`.
        force: as in `check_output`; False also refuses a file that appears before the end.

    Raises:
        CheckpointError: as in `check_output`, or a FIFO has no reader.
        OSError: writing failed, for a full disk say.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(f"{folder}/a.txt") as file:
        ...         _ = file.write(b"whole")
        ...     Path(f"{folder}/a.txt").read_bytes()
        b'whole'
    """
    check_output(path, inputs=inputs, force=force)
    status = _status(path)
    if status is not None and not stat.S_ISREG(status.st_mode):
        with _writing_through(path) as file:
            yield file
        return
    target = _target(path)
    if target.is_symlink():
        raise CheckpointError(f"{os.fspath(path)} is a loop of symbolic links; name another file")
    remove_stale(path)
    temporary = _temporary_beside(target)
    mode = 0o666 if status is None else stat.S_IMODE(status.st_mode) & 0o777
    try:
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(temporary, flags, mode), "w+b") as file:
            yield cast(BinaryIO, file)
            file.flush()
            os.fsync(file.fileno())
        if status is not None:
            _copy_permissions(status, temporary)
        if force:
            temporary.replace(target)
        else:
            _move_to_new(temporary, target, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == str(temporary):
            error.filename, error.filename2 = os.fspath(path), None
        raise


def _move_to_new(temporary: Path, target: Path, path: FilePath) -> None:
    """Rename a file; CheckpointError if the target exists, however late it was made."""
    try:
        os.link(temporary, target)
    except FileExistsError as error:
        raise CheckpointError(_exists_already(path)) from error
    except OSError:  # the file system has no hard links
        check_output(path, force=False)
        temporary.replace(target)
    else:
        temporary.unlink()


def _temporary_beside(target: Path) -> Path:
    name = os.fsdecode(os.fsencode(target.name)[:_LONGEST_NAME])
    return target.with_name(f".{name}.{_SPACE}-{os.getpid()}-{secrets.token_hex(8)}.flytmp")


def _copy_permissions(status: os.stat_result, path: Path) -> None:
    own = path.stat()
    if hasattr(os, "chown") and (own.st_uid, own.st_gid) != (status.st_uid, status.st_gid):
        with contextlib.suppress(OSError):
            os.chown(path, status.st_uid, status.st_gid)
    path.chmod(stat.S_IMODE(status.st_mode))


@contextlib.contextmanager
def _writing_through(path: FilePath) -> Iterator[BinaryIO]:
    """Collect the bytes in a nameless file and copy them into a device or FIFO at the end."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)  # a FIFO without reader: ENXIO
    except OSError as error:
        raise CheckpointError(
            f"{os.fspath(path)} is a device or FIFO that cannot be written ({error.strerror}); "
            "start its reader first, or name a file"
        ) from error
    os.set_blocking(descriptor, True)
    with os.fdopen(descriptor, "wb") as device, tempfile.TemporaryFile() as file:
        yield cast(BinaryIO, file)
        file.seek(0)
        shutil.copyfileobj(file, device)


def write_atomic(
    path: FilePath,
    data: bytes | bytearray | memoryview,
    *,
    inputs: Iterable[FilePath] = (),
    force: bool = True,
) -> int:
    """Write bytes to a file, whole or not at all; return their number.

    ``inputs`` and ``force`` are those of `check_output`, errors those of `replacing`.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_atomic(f"{folder}/a.bin", b"abc")
        3
    """
    with replacing(path, inputs=inputs, force=force) as file:
        file.write(data)
    return len(data)


def spool_for(path: FilePath) -> IO[bytes]:
    """Open a nameless temporary file in the folder of a target, where there is room for it.

    For a target that is a device or FIFO it is in the folder of the system. It vanishes when it is
    closed, also by a kill.
    """
    status = _status(path)
    regular = status is None or stat.S_ISREG(status.st_mode)
    return tempfile.TemporaryFile(dir=_target(path).parent if regular else None)


def remove_stale(path: FilePath) -> None:
    """Delete the temporary files of dead processes of this host in the folder of ``path``.

    Those of processes in other containers are left, since nothing tells whether they live. Files
    that cannot be deleted are left. `replacing` calls it before each write.
    """
    if os.name == "nt":  # there os.kill(pid, 0) is no test
        return
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(_target(path).parent)):
            match = _TEMPORARY.fullmatch(entry.name)
            if match and not _is_alive(int(match[1])):
                with contextlib.suppress(OSError):
                    Path(entry).unlink()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True
