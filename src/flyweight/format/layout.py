"""Layout of a ``.fly`` file: what stands before the payload, and the order of the payload."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flyweight.coding import carrier, decode_huffman, encode_huffman
from flyweight.coding.header import (
    OpenHeader,
    Outline,
    Shapes,
    open_header,
    pack_header,
)
from flyweight.coding.varint import ByteReader, varint
from flyweight.errors import FormatError

__all__ = [
    "BLOCK_BYTES",
    "CRC_BYTES",
    "LONGEST_PREAMBLE",
    "MAGIC",
    "Head",
    "OpenHead",
    "crc",
    "head_length",
    "open_head",
    "pack_head",
    "too_large",
]

#: First bytes of every file.
MAGIC = b"FLYW"
VERSION = 1
CRC_BYTES = 4
BLOCK_BYTES = 1 << 16  # a larger tensor has a checksum of its own, smaller ones share one
LONGEST_PREAMBLE = len(MAGIC) + 2 + 4 * 9
_CODED_HEADER = 1  # flag: the header is Huffman-coded
_BARE_HEADER = 2  # flag: names and shapes are left to the architecture
_FREE_BYTES = 1 << 26  # of tensors, that a file of any length may stand for
_BYTES_PER_BYTE = 4096  # and that each of its bytes may stand for
_HEADER_PER_BYTE = 8  # no byte of a coded header stands for more


@dataclass(frozen=True)
class Head:
    """Outlines of the tensors, metadata, checksums of the blocks, and the length of all that."""

    outlines: tuple[Outline, ...]
    metadata: Mapping[str, str]
    checks: tuple[bytes, ...]
    length: int

    @property
    def file_bytes(self) -> int:
        """Length of the whole file."""
        return self.length + sum(outline.stored_bytes for outline in self.outlines) + CRC_BYTES

    def blocks(self) -> Iterator[tuple[int, list[Outline], bytes]]:
        """Yield where each block of tensors begins in the file, its tensors, and its checksum."""
        start = self.length
        for block, check in zip(_blocks(self.outlines), self.checks, strict=True):
            yield start, block, check
            start += sum(outline.stored_bytes for outline in block)


@dataclass(frozen=True)
class OpenHead:
    """A head whose checksum matches, of which the tensors are not read yet."""

    header: OpenHeader
    checks: tuple[bytes, ...]
    length: int

    def read(self, shapes: Shapes | None = None) -> Head:
        """Read the outlines of the tensors; ``shapes`` as in `OpenHeader.outlines`."""
        outlines = tuple(self.header.outlines(shapes))
        blocks = len(_blocks(outlines))
        if len(self.checks) != blocks:
            raise FormatError(f"the file has {len(self.checks)} checksums for {blocks} blocks.")
        return Head(outlines, self.header.metadata, self.checks, self.length)


def crc(data: bytes, before: int = 0) -> bytes:
    """Return the CRC-32 of ``data``, continued from that of what stands before it."""
    return zlib.crc32(data, before).to_bytes(CRC_BYTES, "little")


def _blocks(outlines: Sequence[Outline]) -> list[list[Outline]]:
    blocks: list[list[Outline]] = []
    room = 0
    for outline in outlines:
        size = outline.stored_bytes
        if not size:
            continue
        if room <= 0 or size >= BLOCK_BYTES:
            blocks.append([])
            room = BLOCK_BYTES
        blocks[-1].append(outline)
        room -= size
    return blocks


def too_large(outlines: Sequence[Outline], length: int) -> str | None:
    """Describe in one sentence that a file is too short for its tensors, or return None.

    Aliases count: whoever copies a file's tensors copies theirs too.
    """
    total = sum(outline.size * carrier(outline.dtype).itemsize for outline in outlines)
    most = _FREE_BYTES + _BYTES_PER_BYTE * length
    if total <= most:
        return None
    return (
        f"the tensors have {total} bytes in all, where a file of {length} bytes may stand "
        f"for at most {most}."
    )


def pack_head(
    outlines: Sequence[Outline],
    metadata: Mapping[str, str],
    checks: Sequence[bytes],
    *,
    bare: bool = False,
) -> bytes:
    """Serialize what stands before the payload. With ``bare`` it has neither names nor shapes."""
    stored, sizes = _encode_header(pack_header(outlines, metadata, bare=bare))
    flags = (_CODED_HEADER if sizes else 0) | (_BARE_HEADER if bare else 0)
    preamble = MAGIC + bytes([VERSION, flags]) + varint(len(stored)) + sizes + varint(len(checks))
    head = b"".join([preamble, stored, *checks])
    return head + crc(head)


def _encode_header(header: bytes) -> tuple[bytes, bytes]:
    """Return the header as stored, and its sizes before coding: b"" if it is stored plainly."""
    table, payload = encode_huffman(np.frombuffer(header, dtype=np.uint8), 256)
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
    """Return how many bytes stand before the payload, from the first ``LONGEST_PREAMBLE``."""
    preamble = _read_preamble(data)
    return preamble.length + preamble.stored + CRC_BYTES * preamble.checks + CRC_BYTES


def open_head(data: bytes, file_bytes: int) -> OpenHead:
    """Check the bytes before the payload and read the metadata; ``data`` may go on after them.

    ``file_bytes`` is the length of the whole file, which limits how many tensors it may have.

    Raises:
        FormatError: anything is wrong with them.
    """
    preamble = _read_preamble(data)
    reader = ByteReader(data, "the file")
    reader.take(preamble.length)
    stored = reader.take(preamble.stored)
    checks = reader.take(CRC_BYTES * preamble.checks)
    end = reader.position
    if reader.take(CRC_BYTES) != crc(data[:end]):
        raise FormatError("the header of the file is damaged: its checksum does not match.")
    raw = _decode_header(stored, preamble.sizes)
    header = open_header(raw, bare=preamble.bare, file_bytes=file_bytes)
    split = tuple(checks[i : i + CRC_BYTES] for i in range(0, len(checks), CRC_BYTES))
    return OpenHead(header, split, reader.position)


def _decode_header(stored: bytes, sizes: tuple[int, int] | None) -> bytes:
    if sizes is None:
        return stored
    length, table = sizes
    if length > _HEADER_PER_BYTE * len(stored) or table > len(stored):
        raise FormatError(f"a header of {length} bytes cannot come from {len(stored)} bytes.")
    return decode_huffman(stored[:table], stored[table:], length, 256).tobytes()
