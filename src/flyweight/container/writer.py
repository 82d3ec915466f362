"""Write a ``.fly`` file tensor by tensor, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from flyweight.coding import CodedTensor
from flyweight.coding.header import Outline, outline_of
from flyweight.coding.tensors import PART_KINDS, defect
from flyweight.container.layout import CRC, SMALL, crc, pack_head, too_many_elements
from flyweight.errors import CheckpointError, ModelError

__all__ = ["Writer", "check_target", "open_writer", "replacing"]

_BLOCK = 1 << 20


class Writer:
    """Take tensors one by one, then write them; only small ones are kept in memory.

    ``spool`` is an empty file that holds the others until then. With ``bare`` the file says
    neither names nor shapes: a reader needs the architecture.
    """

    def __init__(
        self, spool: BinaryIO, metadata: Mapping[str, str] | None = None, *, bare: bool = False
    ) -> None:
        self._spool = spool
        self._metadata = dict(metadata or {})
        self._bare = bare
        self._outlines: list[Outline] = []
        self._names: set[str] = set()
        self._small: list[bytes] = []
        self._checks: list[bytes] = []

    def add(self, tensor: CodedTensor) -> None:
        """Take the next tensor. Raises `ModelError` where a file cannot hold it."""
        sentence = defect(tensor) or self._misfit(tensor)
        if sentence:
            raise ModelError(sentence)
        self._names.add(tensor.name)
        self._outlines.append(outline_of(tensor))
        parts = [tensor.parts[kind] for kind in PART_KINDS if kind in tensor.parts]
        if tensor.stored_bytes < SMALL:
            self._small += parts
            return
        check = 0
        for part in parts:
            check = zlib.crc32(part, check)
            self._spool.write(part)
        self._checks.append(check.to_bytes(CRC, "little"))

    def _misfit(self, tensor: CodedTensor) -> str | None:
        if tensor.name in self._names:
            return f"two tensors have the name {tensor.name!r}."
        if tensor.target is not None:
            if not 0 <= tensor.target < len(self._outlines):
                return f"tensor {tensor.name!r} is an alias of no earlier tensor."
            earlier = self._outlines[tensor.target]
            if earlier.encoding == "alias":
                return f"tensor {tensor.name!r} is an alias of no earlier tensor."
            if (earlier.shape, earlier.dtype) != (tensor.shape, tensor.dtype):
                return f"tensor {tensor.name!r} differs in shape or dtype from what it aliases."
        return None

    def finish(self, file: BinaryIO) -> int:
        """Write the whole to ``file`` and return its length in bytes."""
        small = b"".join(self._small)
        checks = [crc(small), *self._checks] if small else self._checks
        head = pack_head(self._outlines, self._metadata, checks, bare=self._bare)
        length = len(head) + len(small) + self._spool.tell() + CRC
        sentence = too_many_elements(self._outlines, length)
        if sentence:
            raise ModelError(sentence)
        value = 0
        self._spool.seek(0)
        for block in (head, small, *iter(lambda: self._spool.read(_BLOCK), b"")):
            value = zlib.crc32(block, value)
            file.write(block)
        file.write(value.to_bytes(CRC, "little"))
        return length


def check_target(path: str | os.PathLike[str]) -> None:
    """Raise CheckpointError where no file can be written, before any work is done for it."""
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; name the file to write")
    if not path.absolute().parent.is_dir():
        raise CheckpointError(f"the folder {path.absolute().parent} does not exist; create it")
    if not os.access(path.absolute().parent, os.W_OK):
        raise CheckpointError(f"the folder {path.absolute().parent} cannot be written to")


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file that takes the place of ``path`` at the end, if nothing went wrong.

    The bytes go to a temporary file in the same folder. On any error (`OSError` for a full disk,
    say) it is removed, and an existing ``path`` is left as it was.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name[:80]}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def open_writer(
    path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None, *, bare: bool = False
) -> Iterator[Writer]:
    """A `Writer` whose file is at ``path`` when the block ends, and nowhere if it fails.

    What it takes waits in a nameless file beside ``path``, which is gone even after a kill.
    """
    folder = Path(os.path.realpath(path)).parent
    with tempfile.TemporaryFile(dir=folder) as spool:
        writer = Writer(spool, metadata, bare=bare)
        yield writer
        with replacing(path) as file:
            writer.finish(file)
