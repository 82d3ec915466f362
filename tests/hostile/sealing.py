"""Build files, sound or not, with every checksum right."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

from flyweight.coding import CodedTensor
from flyweight.coding.forms import PART_KINDS
from flyweight.coding.header import Outline, outline_of, pack_header
from flyweight.coding.varint import varint
from flyweight.errors import FormatError
from flyweight.format.layout import BLOCK_BYTES, LONGEST_PREAMBLE, crc, head_length

__all__ = ["file_of", "outlines", "resealed", "sealed"]


def file_of(
    header: bytes,
    *blocks: bytes,
    version: int = 1,
    flags: int = 0,
    sizes: bytes = b"",
    checks: int | None = None,
) -> bytes:
    """Return a file of this header and these checksum blocks."""
    count = len(blocks) if checks is None else checks
    head = b"FLYW" + bytes([version, flags]) + varint(len(header)) + sizes + varint(count)
    head += header + b"".join(map(crc, blocks))
    body = b"".join([head, crc(head), *blocks])
    return body + crc(body)


def outlines(tensors: Sequence[CodedTensor]) -> list[Outline]:
    """Outlines of tensors; one in a group follows the last that is in none."""
    found: list[Outline] = []
    first = 0
    for place, tensor in enumerate(tensors):
        first = first if tensor.member else place
        found.append(outline_of(tensor, first if tensor.member else None))
    return found


def sealed(
    tensors: Sequence[CodedTensor],
    metadata: Mapping[str, str] | None = None,
    *,
    bare: bool = False,
    header: bytes | None = None,
) -> bytes:
    """Return a file of tensors however unsound, or of another header than theirs, not coded."""
    blocks: list[bytes] = []
    room = 0
    for tensor in tensors:
        raw = b"".join(tensor.parts[kind] for kind in PART_KINDS if kind in tensor.parts)
        if raw and (room <= 0 or len(raw) >= BLOCK_BYTES):
            blocks.append(b"")
            room = BLOCK_BYTES
        if raw:
            blocks[-1] += raw
            room -= len(raw)
    if header is None:
        header = pack_header(outlines(tensors), metadata or {}, bare=bare)
    return file_of(header, *blocks, flags=2 * bare)


def resealed(data: bytes) -> bytes:
    """Return a file with the checksums of its head and of the whole computed again."""
    try:
        length = head_length(data[:LONGEST_PREAMBLE])
    except FormatError:
        return data
    if not 4 <= length <= len(data) - 4:
        return data
    body = data[: length - 4] + crc(data[: length - 4]) + data[length:-4]
    return body + zlib.crc32(body).to_bytes(4, "little")
