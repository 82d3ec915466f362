"""Detect the kind of a file by its first bytes."""

from __future__ import annotations

import os
import stat
import zipfile
from pathlib import Path
from typing import Literal

from flyweight.errors import CheckpointError
from flyweight.format import MAGIC

__all__ = ["check_regular_file", "checkpoint_kind", "escaped"]

# First bytes of files that are no checkpoint, what they are, and what to do.
_OTHERS = (
    (MAGIC, "is a .fly file already; decompress it first"),
    (b"GGUF", "is a GGUF file; give the safetensors or torch checkpoint that it was made from"),
    (
        b"version https://git-lfs",
        "is a Git LFS pointer, not the file that it stands for; run `git lfs pull`",
    ),
    (b"\x89HDF", "is an HDF5 file, as Keras writes; give a safetensors or torch checkpoint"),
    (b"\x93NUMPY", "is a NumPy array; give a safetensors or torch checkpoint"),
    (b"\x1f\x8b", "is compressed by gzip; unpack it first"),
    (b"\xfd7zXZ", "is compressed by xz; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "is compressed by zstd; unpack it first"),
    (b"BZh", "is compressed by bzip2; unpack it first"),
    (b"Rar!", "is a RAR archive; unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive; unpack it first"),
)
_HTML = (b"<!doctype html", b"<html", b"<head", b"<?xml")
_TAR = slice(257, 262)  # where tar archives hold "ustar"
_HEAD = 512  # bytes


def check_regular_file(path: Path) -> None:
    """Check that a path names a file that can be read from any place.

    Raises:
        CheckpointError: nothing is there, or it is a folder, a device, a FIFO or a socket.
    """
    if str(path) == "-":
        raise CheckpointError("standard input cannot be read; name a file")
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(f"there is no file {escaped(path)}") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(f"{escaped(path)} cannot be read ({reason})") from error
    if stat.S_ISDIR(mode):
        raise CheckpointError(f"{escaped(path)} is a folder; name the file in it")
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
        kind = kinds.get(stat.S_IFMT(mode), "a device")
        raise CheckpointError(f"{escaped(path)} is {kind}; copy its content into a file first")


def checkpoint_kind(path: str | os.PathLike[str]) -> Literal["safetensors", "torch", "index"]:
    """Tell a safetensors file, a torch checkpoint and a JSON index apart by their first bytes.

    Raises:
        CheckpointError: the file is none of these; the sentence says what it is and what to do.
        OSError: it cannot be read.
    """
    path = Path(path)
    check_regular_file(path)
    with path.open("rb") as file:
        head = file.read(_HEAD)
    where = escaped(path)
    if not head:
        raise CheckpointError(f"{where} is empty; download or save it again")
    if head[4:9] == b"\0\0\0\0{":
        return "safetensors"  # the length of a JSON header below 4 GiB, and its first character
    for magic, sentence in _OTHERS:
        if head.startswith(magic):
            raise CheckpointError(f"{where} {sentence}")
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(_HTML):
        raise CheckpointError(
            f"{where} is a web page, perhaps of a failed download; download the file itself"
        )
    if start.startswith(b"{"):
        return "index"
    if head.startswith(b"PK\3\4"):
        _check_torch_archive(path)
        return "torch"
    if head[_TAR] == b"ustar":
        raise CheckpointError(f"{where} is a tar archive; unpack it first")
    if head[0] == 0x80 and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return "torch"  # a pickle
    if path.suffix == ".safetensors":
        return "safetensors"  # a damaged one; the library says how
    raise CheckpointError(
        f"{where} is neither a safetensors file nor a torch checkpoint, or is damaged; "
        "give a .safetensors file or what `torch.save(model.state_dict())` wrote"
    )


def _check_torch_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise CheckpointError(
            f"{escaped(path)} is a damaged zip archive or torch checkpoint; copy it again"
        ) from error
    if any(name.endswith("constants.pkl") for name in names):
        raise CheckpointError(
            f"{escaped(path)} is a TorchScript archive; save `model.state_dict()` instead"
        )
    if not any(name.endswith("data.pkl") for name in names):
        raise CheckpointError(f"{escaped(path)} is a zip archive; unpack it first")


def escaped(text: object) -> str:
    r"""Return text with what a terminal would not print as it is escaped.

    >>> escaped("a\x1b[31m.pt")
    'a\\x1b[31m.pt'
    """
    return "".join(
        mark if mark.isprintable() else mark.encode("unicode_escape", "replace").decode()
        for mark in str(text)
    )
