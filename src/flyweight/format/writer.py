"""Write a ``.fly`` file tensor by tensor, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO, cast

from flyweight._files import replacing, spool_for
from flyweight.coding import CodedTensor
from flyweight.coding.forms import PART_KINDS, TensorGroup, defect
from flyweight.coding.header import Outline, crowded, outline_of
from flyweight.errors import ModelError
from flyweight.format.layout import (
    BLOCK_BYTES,
    CRC_BYTES,
    crc,
    pack_head,
    too_large,
)

__all__ = ["Writer", "open_writer"]

_BLOCK = 1 << 20


@dataclass
class _OpenGroup:
    """The last tensor of its kind that holds its own parts, and the members after it so far."""

    place: int
    group: TensorGroup | None
    members: int

    @property
    def complete(self) -> bool:
        return self.group is None or self.members == len(self.group.rows)


class Writer:
    """Take tensors one by one, then write them; memory holds none of them.

    Args:
        spool: an empty file that holds them until then.
        metadata: strings for the file.
        bare: leaves out names and shapes, so that a reader needs the architecture.
    """

    def __init__(
        self, spool: BinaryIO, metadata: Mapping[str, str] | None = None, *, bare: bool = False
    ) -> None:
        self._spool = spool
        self.length = 0  # of the whole file, once it is finished
        self._metadata = dict(metadata or {})
        self._bare = bare
        self._outlines: list[Outline] = []
        self._names: set[str] = set()
        self._checks: list[bytes] = []
        self._room = 0  # bytes that the last block may still take
        self._groups: dict[tuple[object, ...] | None, _OpenGroup] = {}

    def add(self, tensor: CodedTensor) -> None:
        """Take the next tensor. Raises `ModelError` where a file cannot hold it."""
        sentence = defect(tensor) or self._misfit(tensor)
        if sentence:
            raise ModelError(sentence)
        self._names.add(tensor.name)
        self._outlines.append(outline_of(tensor, self._first(tensor)))
        size = tensor.stored_bytes
        if not size:
            return
        if self._room <= 0 or size >= BLOCK_BYTES:
            self._checks.append(crc(b""))
            self._room = BLOCK_BYTES
        self._room -= size
        for part in PART_KINDS:
            if part in tensor.parts:
                before = int.from_bytes(self._checks[-1], "little")
                self._checks[-1] = crc(tensor.parts[part], before)
                self._spool.write(tensor.parts[part])

    def _first(self, tensor: CodedTensor) -> int | None:
        """Return the place of the first tensor of a group, if this one, found sound, follows it."""
        key = outline_of(tensor).group_key
        if tensor.member:
            self._groups[key].members += 1
            return self._groups[key].place
        if key is not None:
            self._groups[key] = _OpenGroup(len(self._outlines), tensor.group, 1)
        return None

    def _misfit(self, tensor: CodedTensor) -> str | None:
        if tensor.name in self._names:
            return f"two tensors have the name {tensor.name!r}."
        last = self._groups.get(outline_of(tensor).group_key)
        if tensor.member:
            if last is None or (last.group, last.members) != (tensor.group, tensor.member):
                return f"tensor {tensor.name!r} does not follow the others of its group."
        elif last is not None and not last.complete:
            return f"tensor {tensor.name!r} stands between the tensors of a group."
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
        if not all(last.complete for last in self._groups.values()):
            raise ModelError("a group of tensors is incomplete.")
        head = pack_head(self._outlines, self._metadata, self._checks, bare=self._bare)
        length = len(head) + self._spool.tell() + CRC_BYTES
        sentence = crowded(self._outlines, self._metadata, length)
        sentence = sentence or too_large(self._outlines, length)
        if sentence:
            raise ModelError(sentence)
        value = zlib.crc32(head)
        file.write(head)
        self._spool.seek(0)
        while block := self._spool.read(_BLOCK):
            value = zlib.crc32(block, value)
            file.write(block)
        file.write(value.to_bytes(CRC_BYTES, "little"))
        self.length = length
        return length


@contextlib.contextmanager
def open_writer(
    path: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
    *,
    bare: bool = False,
    inputs: Iterable[str | os.PathLike[str]] = (),
    force: bool = True,
) -> Iterator[Writer]:
    """Open a `Writer` whose file is at ``path`` when the block ends without an error.

    Tensors wait in a nameless file beside ``path``, which is gone even after a kill. ``inputs``
    and ``force`` are those of `flyweight._files.check_output`.
    """
    with spool_for(path) as spool:
        writer = Writer(cast(BinaryIO, spool), metadata, bare=bare)
        yield writer
        with replacing(path, inputs=inputs, force=force) as file:
            writer.finish(file)
