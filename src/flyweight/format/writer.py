"""Write a ``.fly`` file tensor by tensor, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from flyweight.coding import CodedTensor
from flyweight.coding.forms import PART_KINDS, Joint, defect
from flyweight.coding.header.outline import Outline, outline_of
from flyweight.format.layout import (
    CRC,
    GROUP,
    crc,
    pack_head,
    too_many_elements,
)
from flyweight.errors import CheckpointError, ModelError

__all__ = ["Writer", "check_target", "open_writer", "replacing"]

_BLOCK = 1 << 20


@dataclass
class _Open:
    """The last tensor of its kind that joins no other, and how many are joined so far."""

    place: int
    joint: Joint | None
    members: int

    @property
    def whole(self) -> bool:
        return self.joint is None or self.members == len(self.joint.rows)


class Writer:
    """Take tensors one by one, then write them; none is kept in memory.

    ``spool`` is an empty file that holds them until then. With ``bare`` the file says
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
        self._checks: list[bytes] = []
        self._room = 0  # bytes that the last group may still take
        self._joints: dict[tuple[object, ...] | None, _Open] = {}

    def add(self, tensor: CodedTensor) -> None:
        """Take the next tensor. Raises `ModelError` where a file cannot hold it."""
        sentence = defect(tensor) or self._misfit(tensor)
        if sentence:
            raise ModelError(sentence)
        self._names.add(tensor.name)
        self._outlines.append(outline_of(tensor, self._head(tensor)))
        size = tensor.stored_bytes
        if not size:
            return
        if self._room <= 0 or size >= GROUP:
            self._checks.append(crc(b""))
            self._room = GROUP
        self._room -= size
        for part in PART_KINDS:
            if part in tensor.parts:
                before = int.from_bytes(self._checks[-1], "little")
                self._checks[-1] = crc(tensor.parts[part], before)
                self._spool.write(tensor.parts[part])

    def _head(self, tensor: CodedTensor) -> int | None:
        """Return the place of the tensor that this one joins, which `_misfit` has found sound."""
        alike = outline_of(tensor).alike
        if tensor.member:
            self._joints[alike].members += 1
            return self._joints[alike].place
        if alike is not None:
            self._joints[alike] = _Open(len(self._outlines), tensor.joint, 1)
        return None

    def _misfit(self, tensor: CodedTensor) -> str | None:
        if tensor.name in self._names:
            return f"two tensors have the name {tensor.name!r}."
        last = self._joints.get(outline_of(tensor).alike)
        if tensor.member:
            if last is None or (last.joint, last.members) != (tensor.joint, tensor.member):
                return f"tensor {tensor.name!r} does not follow the tensors that it is joined with."
        elif last is not None and not last.whole:
            return f"tensor {tensor.name!r} stands between tensors that are joined."
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
        if not all(last.whole for last in self._joints.values()):
            raise ModelError("some of the tensors that are joined are missing.")
        head = pack_head(self._outlines, self._metadata, self._checks, bare=self._bare)
        length = len(head) + self._spool.tell() + CRC
        sentence = too_many_elements(self._outlines, length)
        if sentence:
            raise ModelError(sentence)
        value = 0
        self._spool.seek(0)
        for block in (head, *iter(lambda: self._spool.read(_BLOCK), b"")):
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
