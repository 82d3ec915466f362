"""Read a ``.fly`` file tensor by tensor, without the rest of it."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

from flyweight.coding import CodedTensor
from flyweight.coding.forms import OWN_PARTS, Joint, defect
from flyweight.coding.header.outline import Outline, Skeleton
from flyweight.format.layout import (
    CRC,
    LONGEST_PREAMBLE,
    crc,
    head_length,
    too_many_elements,
    unpack_head,
)
from flyweight.errors import FormatError

__all__ = ["Reader"]

_BLOCK = 1 << 20
_JOINTS = 16  # so many sets of joined tensors are kept decoded


class _Group(NamedTuple):
    """Tensors that share a checksum: where they lie, and how many they are."""

    start: int
    length: int
    tensors: int
    check: bytes


class Reader:
    """An open ``.fly`` file: what it holds, and any of its tensors.

    Opening reads the head alone. A tensor is checked against its own checksum when it is read;
    `verify` checks the file as a whole. ``skeleton`` gives names and shapes where the file leaves
    them to the architecture.

    Raises `FormatError` for whatever is wrong with the file, `OSError` if it cannot be read.

    Example:
        >>> from flyweight.format import Container, dumps
        >>> Reader(dumps(Container(tensors=(), metadata={"a": "b"}))).metadata
        {'a': 'b'}
    """

    outlines: tuple[Outline, ...]
    metadata: Mapping[str, str]

    def __init__(
        self, source: str | os.PathLike[str] | bytes, *, skeleton: Skeleton | None = None
    ) -> None:
        self._where = "" if isinstance(source, bytes) else f"{os.fspath(source)}: "
        self._file: BinaryIO = (
            io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb")  # noqa: SIM115 - closed by close()
        )
        try:
            self._open(skeleton)
        except FormatError as error:
            self.close()
            raise FormatError(f"{self._where}{error}") from error
        except BaseException:
            self.close()
            raise

    def _open(self, skeleton: Skeleton | None) -> None:
        self.file_bytes = self._file.seek(0, os.SEEK_END)
        length = head_length(self._read(0, LONGEST_PREAMBLE))
        self._head = unpack_head(self._read(0, min(length, self.file_bytes)), skeleton)
        if self._head.file_bytes != self.file_bytes:
            what = (
                "cut short"
                if self.file_bytes < self._head.file_bytes
                else "followed by other bytes"
            )
            raise FormatError(
                f"the file is {what}: it has {self.file_bytes} bytes and should have "
                f"{self._head.file_bytes}."
            )
        self.outlines = self._head.outlines
        self.metadata = self._head.metadata
        sentence = too_many_elements(self.outlines, self.file_bytes)
        if sentence:
            raise FormatError(sentence)
        self._by_name = {outline.name: place for place, outline in enumerate(self.outlines)}
        self._members: dict[int, list[int]] = {}  # of each set of joined tensors, by its first
        self._member: dict[int, int] = {}
        for place, outline in enumerate(self.outlines):
            if outline.head is not None:
                members = self._members.setdefault(outline.head, [outline.head])
                self._member[place] = len(members)
                members.append(place)
        self._joints: dict[int, Joint] = {}
        self._places: dict[str, tuple[_Group, int]] = {}
        for start, outlines, check in self._head.groups():
            group = _Group(start, sum(o.stored_bytes for o in outlines), len(outlines), check)
            before = 0
            for outline in outlines:
                self._places[outline.name] = (group, before)
                before += outline.stored_bytes
        self._last: tuple[int, bytes] = (-1, b"")

    @property
    def overhead(self) -> dict[str, int]:
        """Bytes that are in no tensor: header, preamble included, and checksums."""
        checksums = CRC * (len(self._head.checks) + 2)
        return {"header": self._head.length + CRC - checksums, "checksums": checksums}

    def _read(self, start: int, length: int) -> bytes:
        self._file.seek(start)
        return self._file.read(length)

    def tensor(self, name: str) -> CodedTensor:
        """The tensor of a name. Raises `FormatError` if it is damaged or not in the file."""
        if name not in self._by_name:
            raise FormatError(f"{self._where}the file holds no tensor {name!r}.")
        place = self._by_name[name]
        tensor = self._parts_of(place)
        outline = self.outlines[place]
        head = place if outline.head is None else outline.head
        if head in self._members:
            tensor = replace(tensor, joint=self._joint(head), member=self._member.get(place, 0))
        sentence = defect(tensor)
        if sentence:
            raise FormatError(f"{self._where}{sentence}")
        return tensor

    def _joint(self, head: int) -> Joint:
        """Return what the joined tensors have in common, and keep it, decoded, for the next."""
        if head not in self._joints:
            if len(self._joints) == _JOINTS:
                self._joints.pop(next(iter(self._joints)))
            members = [self.outlines[place] for place in self._members[head]]
            parts = dict(self._parts_of(head).parts)
            for kind in OWN_PARTS:
                parts.pop(kind, None)
            self._joints[head] = Joint(
                rows=tuple(member.shape[0] for member in members),
                rest=members[0].shape[1:],
                coder=members[0].coder,
                storage=members[0].storage,
                levels=tuple(member.levels for member in members),
                parts=parts,
            )
        return self._joints[head]

    def _parts_of(self, place: int) -> CodedTensor:
        """Return a tensor with its own parts alone."""
        outline = self.outlines[place]
        if outline.name not in self._places:
            return outline.filled(b"", 0)
        group, before = self._places[outline.name]
        if self._last[0] != group.start:
            self._last = (group.start, self._read(group.start, group.length))
            if crc(self._last[1]) != group.check:
                what = f"tensor {outline.name!r}" if group.tensors == 1 else "a group of tensors"
                self._last = (-1, b"")
                raise FormatError(f"{self._where}{what} is damaged: its checksum does not match.")
        return outline.filled(self._last[1], before)

    def tensors(self, names: Iterable[str] | None = None) -> Iterator[CodedTensor]:
        """The tensors named, or all of them, one after another, in the order of the file."""
        wanted = set(self._by_name) if names is None else set(names)
        for name in sorted(wanted - set(self._by_name)):
            self.tensor(name)  # raises
        for outline in self.outlines:
            if outline.name in wanted:
                yield self.tensor(outline.name)

    def verify(self) -> None:
        """Raise `FormatError` unless the checksum over the whole file matches."""
        left = self.file_bytes - CRC
        self._file.seek(0)
        value = 0
        while left > 0:
            block = self._file.read(min(_BLOCK, left))
            if not block:
                break
            value = zlib.crc32(block, value)
            left -= len(block)
        if left or value.to_bytes(CRC, "little") != self._file.read(CRC):
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
