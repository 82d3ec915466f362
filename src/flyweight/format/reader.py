"""Read a ``.fly`` file tensor by tensor."""

from __future__ import annotations

import io
import os
import stat
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

from flyweight.coding import CodedTensor
from flyweight.coding.forms import OWN_PARTS, TensorGroup, defect
from flyweight.coding.header import Outline, Shapes
from flyweight.errors import FormatError
from flyweight.format.layout import (
    CRC_BYTES,
    LONGEST_PREAMBLE,
    Head,
    crc,
    head_length,
    open_head,
    too_large,
)

__all__ = ["Reader"]

_BLOCK = 1 << 20


class _Block(NamedTuple):
    """Tensors that share a checksum: where they are in the file, and their number."""

    start: int
    length: int
    tensors: int
    check: bytes


class Reader:
    """An open ``.fly`` file: its metadata, and any of its tensors.

    Opening reads what stands before the payload. A tensor is checked against its own checksum
    when it is read; `verify` checks the file as a whole. A group of small tensors is decoded once
    if its tensors are read in the order of the file.

    Args:
        source: path of a regular file, or the bytes of one.
        shapes: names and shapes of the architecture, where the file leaves them out. Without,
            they are given to `use_shapes`, after a look at the metadata.

    Raises:
        FormatError: anything is wrong with the file, or it is no regular file.
        OSError: it cannot be read.

    Example:
        >>> from flyweight.format import Container, dumps
        >>> Reader(dumps(Container(tensors=(), metadata={"a": "b"}))).metadata
        {'a': 'b'}
    """

    def __init__(
        self, source: str | os.PathLike[str] | bytes, shapes: Shapes | None = None
    ) -> None:
        self._where = "" if isinstance(source, bytes) else f"{os.fspath(source)}: "
        self._file = _open(source)
        self._head: Head | None = None
        try:
            self.file_bytes = self._file.seek(0, os.SEEK_END)
            length = head_length(self._read(0, LONGEST_PREAMBLE))
            self._opened = open_head(self._read(0, min(length, self.file_bytes)), self.file_bytes)
            if not self.bare or shapes is not None:
                self._read_head(shapes)
        except FormatError as error:
            self.close()
            raise FormatError(f"{self._where}{error}") from error
        except BaseException:
            self.close()
            raise

    @property
    def metadata(self) -> Mapping[str, str]:
        """Strings by key."""
        return self._opened.header.metadata

    @property
    def bare(self) -> bool:
        """Whether the file leaves names and shapes to its architecture."""
        return self._opened.header.bare

    def use_shapes(self, shapes: Shapes) -> None:
        """Give the names and shapes that a bare file leaves out.

        Raises:
            FormatError: they are those of another architecture, or the file is unsound.
        """
        try:
            self._read_head(shapes)
        except FormatError as error:
            raise FormatError(f"{self._where}{error}") from error

    @property
    def outlines(self) -> tuple[Outline, ...]:
        """The tensors without their bytes, in the order of the file."""
        if self._head is None:
            self.use_shapes(None)  # type: ignore[arg-type] # says that they are missing
        assert self._head is not None
        return self._head.outlines

    def _read_head(self, shapes: Shapes | None) -> None:
        head = self._opened.read(shapes)
        if head.file_bytes != self.file_bytes:
            what = "cut short" if self.file_bytes < head.file_bytes else "followed by other bytes"
            raise FormatError(
                f"the file is {what}: it has {self.file_bytes} bytes and should have "
                f"{head.file_bytes}."
            )
        sentence = too_large(head.outlines, self.file_bytes)
        if sentence:
            raise FormatError(sentence)
        self._head = head
        self._by_name = {outline.name: place for place, outline in enumerate(head.outlines)}
        self._members: dict[int, list[int]] = {}  # places of each group, by that of its first
        for place, outline in enumerate(head.outlines):
            if outline.first is not None:
                self._members.setdefault(outline.first, [outline.first]).append(place)
        self._groups: dict[int, TensorGroup] = {}
        sizes = [outline.stored_bytes for outline in head.outlines]
        self._starts = [*accumulate(sizes, initial=head.length)]  # of the tensors in the file
        self._blocks = [
            _Block(start, sum(outline.stored_bytes for outline in outlines), len(outlines), check)
            for start, outlines, check in head.blocks()
        ]
        self._last: tuple[int, bytes] = (-1, b"")

    @property
    def overhead(self) -> dict[str, int]:
        """Bytes that are in no tensor: "header", preamble included, and "checksums"."""
        checksums = CRC_BYTES * (len(self._opened.checks) + 2)
        return {"header": self._opened.length + CRC_BYTES - checksums, "checksums": checksums}

    def _read(self, start: int, length: int) -> bytes:
        self._file.seek(start)
        return self._file.read(length)

    def tensor(self, name: str) -> CodedTensor:
        """Return the tensor of a name.

        Raises:
            FormatError: it is damaged, or not in the file.
        """
        outlines = self.outlines
        if name not in self._by_name:
            raise FormatError(f"{self._where}the file holds no tensor {name!r}.")
        place = self._by_name[name]
        tensor = self._own_parts(place)
        first = place if outlines[place].first is None else outlines[place].first
        if first in self._members:
            members = self._members[first]
            member = bisect_left(members, place)
            tensor = replace(tensor, group=self._group(first), member=member)
            if place == members[-1]:
                del self._groups[first]  # read in order, no other is to come
        sentence = defect(tensor)
        if sentence:
            raise FormatError(f"{self._where}{sentence}")
        return tensor

    def _group(self, first: int) -> TensorGroup:
        """Return a group by the place of its first tensor; there is one object of it at a time."""
        if first not in self._groups:
            members = [self.outlines[place] for place in self._members[first]]
            parts = dict(self._own_parts(first).parts)
            for kind in OWN_PARTS:
                parts.pop(kind, None)
            self._groups[first] = TensorGroup(
                rows=tuple(member.shape[0] for member in members),
                rest=members[0].shape[1:],
                coder=members[0].coder,
                storage=members[0].storage,
                levels=tuple(member.levels for member in members),
                parts=parts,
            )
        return self._groups[first]

    def _own_parts(self, place: int) -> CodedTensor:
        """Return a tensor with the parts that it holds itself."""
        outline = self.outlines[place]
        if not outline.stored_bytes:
            return outline.filled(b"", 0)
        start = self._starts[place]
        block = self._blocks[bisect_right(self._blocks, start, key=lambda one: one.start) - 1]
        if self._last[0] != block.start:
            self._last = (block.start, self._read(block.start, block.length))
            if crc(self._last[1]) != block.check:
                what = f"tensor {outline.name!r}" if block.tensors == 1 else "a block of tensors"
                self._last = (-1, b"")
                raise FormatError(f"{self._where}{what} is damaged: its checksum does not match.")
        tensor = outline.filled(self._last[1], start - block.start)
        if block.tensors == 1:
            self._last = (-1, b"")  # its bytes are not held twice
        return tensor

    def tensors(self, names: Iterable[str] | None = None) -> Iterator[CodedTensor]:
        """Yield the tensors of these names, or all of them, in the order of the file."""
        outlines = self.outlines
        selected = set(self._by_name) if names is None else set(names)
        for name in sorted(selected - set(self._by_name)):
            self.tensor(name)  # raises
        for outline in outlines:
            if outline.name in selected:
                yield self.tensor(outline.name)

    def verify(self) -> None:
        """Raise `FormatError` unless the checksum over the whole file matches."""
        left = self.file_bytes - CRC_BYTES
        self._file.seek(0)
        value = 0
        while left > 0:
            block = self._file.read(min(_BLOCK, left))
            if not block:
                break
            value = zlib.crc32(block, value)
            left -= len(block)
        if left or value.to_bytes(CRC_BYTES, "little") != self._file.read(CRC_BYTES):
            raise FormatError(
                f"{self._where}the file is damaged: the checksum at its end does not match."
            )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _open(source: str | os.PathLike[str] | bytes) -> BinaryIO:
    """Open bytes or a regular file; a device has no end, and a FIFO may never have a writer."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    path = Path(source)
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise FormatError(f"{path} is a folder; name a .fly file in it.")
    if not stat.S_ISREG(mode):
        raise FormatError(f"{path} is a device or FIFO; copy its content to a file first.")
    return path.open("rb")
