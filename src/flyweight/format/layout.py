"""The head of a ``.fly`` file, the order of its payload, and what makes a file unsound."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from flyweight.coding import decode_symbols, encode_symbols
from flyweight.coding.header.outline import Outline, Skeleton
from flyweight.coding.header.pack import pack_header
from flyweight.coding.header.unpack import unpack_header
from flyweight.coding.positions import bounded_size
from flyweight.coding.varint import ByteReader, varint
from flyweight.errors import FormatError

__all__ = [
    "CRC",
    "GROUP",
    "LONGEST_PREAMBLE",
    "MAGIC",
    "Head",
    "crc",
    "head_length",
    "pack_head",
    "too_many_elements",
    "unpack_head",
]

MAGIC = b"FLYW"
VERSION = 1
CRC = 4  # bytes of a checksum
GROUP = 1 << 16  # bytes: a larger tensor has a checksum of its own, smaller ones share
LONGEST_PREAMBLE = len(MAGIC) + 2 + 4 * 9
_CODED_HEADER = 1  # flag: the header is Huffman-coded
_BARE_HEADER = 2  # flag: names and shapes are left to the architecture
_HEADER_PER_BYTE = 8  # no byte of a coded header stands for more


@dataclass(frozen=True)
class Head:
    """What stands before the payload: tensors in outline, metadata, checksums of the groups."""

    outlines: tuple[Outline, ...]
    metadata: Mapping[str, str]
    checks: tuple[bytes, ...]
    length: int

    @property
    def file_bytes(self) -> int:
        """Length of the whole file."""
        return self.length + sum(outline.stored_bytes for outline in self.outlines) + CRC

    def groups(self) -> Iterator[tuple[int, list[Outline], bytes]]:
        """Where each group of tensors begins in the file, its tensors, and its checksum."""
        start = self.length
        for group, check in zip(_groups(self.outlines), self.checks, strict=True):
            yield start, group, check
            start += sum(outline.stored_bytes for outline in group)


def crc(data: bytes, before: int = 0) -> bytes:
    """CRC-32 of ``data``, going on from that of what stands before it."""
    return zlib.crc32(data, before).to_bytes(CRC, "little")


def _groups(outlines: Sequence[Outline]) -> list[list[Outline]]:
    groups: list[list[Outline]] = []
    room = 0
    for outline in outlines:
        size = outline.stored_bytes
        if not size:
            continue
        if room <= 0 or size >= GROUP:
            groups.append([])
            room = GROUP
        groups[-1].append(outline)
        room -= size
    return groups


def too_many_elements(outlines: Sequence[Outline], length: int) -> str | None:
    """A sentence if a file of ``length`` bytes may not stand for so many elements, or None."""
    total = sum(outline.size for outline in outlines if outline.encoding != "alias")
    if total <= bounded_size(length):
        return None
    return (
        f"the tensors have {total} elements in all, where a file of {length} bytes may stand "
        f"for at most {bounded_size(length)}."
    )


def pack_head(
    outlines: Sequence[Outline],
    metadata: Mapping[str, str],
    checks: Sequence[bytes],
    *,
    bare: bool = False,
) -> bytes:
    """The bytes before the payload. With ``bare`` they say neither names nor shapes."""
    stored, sizes = _code_header(pack_header(outlines, metadata, bare=bare))
    flags = (_CODED_HEADER if sizes else 0) | (_BARE_HEADER if bare else 0)
    preamble = MAGIC + bytes([VERSION, flags]) + varint(len(stored)) + sizes + varint(len(checks))
    head = b"".join([preamble, stored, *checks])
    return head + crc(head)


def _code_header(header: bytes) -> tuple[bytes, bytes]:
    """Return the header as stored, and its sizes before coding: b"" if it is stored plainly."""
    table, payload = encode_symbols(list(header), 256)
    coded = table + payload
    sizes = varint(len(header)) + varint(len(table))
    if len(sizes) + len(coded) < len(header) <= _HEADER_PER_BYTE * len(coded):
        return coded, sizes
    return header, b""


@dataclass(frozen=True)
class _Preamble:
    length: int
    bare: bool
    stored: int
    sizes: tuple[int, int] | None
    checks: int


def _read_preamble(data: bytes) -> _Preamble:
    if data[: len(MAGIC)] != MAGIC:
        raise FormatError("this is not a .fly file: it does not begin with FLYW.")
    reader = ByteReader(data, "the file")
    reader.take(len(MAGIC))
    version, flags = reader.take(2)
    if version != VERSION:
        raise FormatError(
            f"the file has format version {version}, and this flyweight reads version {VERSION}; "
            "a newer flyweight may read it."
        )
    if flags & ~(_CODED_HEADER | _BARE_HEADER):
        raise FormatError(f"the file has unknown flags ({flags:#04x}).")
    stored = reader.varint()
    sizes = (reader.varint(), reader.varint()) if flags & _CODED_HEADER else None
    checks = reader.varint()
    return _Preamble(reader.position, bool(flags & _BARE_HEADER), stored, sizes, checks)


def head_length(data: bytes) -> int:
    """How many bytes stand before the payload, told from the first ``LONGEST_PREAMBLE`` bytes."""
    preamble = _read_preamble(data)
    return preamble.length + preamble.stored + CRC * preamble.checks + CRC


def unpack_head(data: bytes, skeleton: Skeleton | None = None) -> Head:
    """What the bytes before the payload say; ``data`` holds these at least.

    ``skeleton`` gives names and shapes where the file leaves them to the architecture. Raises
    `FormatError` if anything is wrong with them.
    """
    preamble = _read_preamble(data)
    reader = ByteReader(data, "the file")
    reader.take(preamble.length)
    stored = reader.take(preamble.stored)
    checks = reader.take(CRC * preamble.checks)
    end = reader.position
    if reader.take(CRC) != crc(data[:end]):
        raise FormatError("the header of the file is damaged: its checksum does not match.")
    header = _decode_header(stored, preamble.sizes)
    outlines, metadata = unpack_header(header, skeleton, bare=preamble.bare)
    groups = len(_groups(outlines))
    if preamble.checks != groups:
        raise FormatError(f"the file has {preamble.checks} checksums for {groups} groups.")
    split = tuple(checks[i : i + CRC] for i in range(0, len(checks), CRC))
    return Head(tuple(outlines), metadata, split, reader.position)


def _decode_header(stored: bytes, sizes: tuple[int, int] | None) -> bytes:
    if sizes is None:
        return stored
    length, table = sizes
    if length > _HEADER_PER_BYTE * len(stored) or table > len(stored):
        raise FormatError(f"a header of {length} bytes cannot come from {len(stored)} bytes.")
    return decode_symbols(stored[:table], stored[table:], length, 256).astype("u1").tobytes()
