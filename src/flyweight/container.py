"""Named coded tensors to one ``.fly`` file and back.

A file is: a preamble, a header that says what the tensors are, checksums, the parts without a
hole between them, and a checksum over all. `docs/format.md` specifies every byte. Nothing in a
file is executed, and no count in it is believed before it is checked against the caps and the
length of the file. Whatever is wrong with a file is a `FormatError`.

Example:

>>> import numpy as np
>>> from flyweight.coding import code_lossless
>>> container = Container(tensors=(code_lossless("b", np.float32([1, 2]), dtype="float32"),))
>>> loads(dumps(container)) == container
True
"""

from __future__ import annotations

import contextlib
import os
import secrets
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from flyweight.coding import (
    CodedTensor,
    decode_symbols,
    encode_symbols,
)
from flyweight.coding.header import Outline, pack_header, unpack_header
from flyweight.coding.positions import bounded_size
from flyweight.coding.tensors import PART_KINDS, defect
from flyweight.coding.varint import ByteReader, varint
from flyweight.errors import FormatError, ModelError

__all__ = [
    "Container",
    "dumps",
    "loads",
    "overhead",
    "read",
    "write",
]

MAGIC = b"FLYW"
VERSION = 1
_CODED_HEADER = 1  # flag: the header is Huffman-coded
_SMALL = 1024  # tensors of fewer stored bytes share one checksum
_CRC = 4
_HEADER_PER_BYTE = 8  # no byte of a coded header stands for more

_T = TypeVar("_T", CodedTensor, Outline)


@dataclass(frozen=True)
class Container:
    """What a ``.fly`` file holds: tensors in order, and a few strings about them."""

    tensors: tuple[CodedTensor, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)


def dumps(container: Container) -> bytes:
    """Return the bytes of a ``.fly`` file; equal containers give equal bytes.

    Raises `ModelError` if a tensor is malformed, two share a name, an alias points at no
    earlier tensor, or more than 2**20 + 4096 x (bytes of the file) elements are described.
    """
    sentence = _first_defect(container.tensors)
    if sentence:
        raise ModelError(sentence)
    groups = [group for group in _groups(container.tensors) if any(map(_payload, group))]
    payloads = [b"".join(map(_payload, group)) for group in groups]
    stored, sizes = _code_header(pack_header(container.tensors, container.metadata))
    head = b"".join(
        [
            MAGIC,
            bytes([VERSION, _CODED_HEADER if sizes else 0]),
            varint(len(stored)),
            sizes,
            varint(len(payloads)),
            stored,
            *map(_crc, payloads),
        ]
    )
    body = b"".join([head, _crc(head), *payloads])
    data = body + _crc(body)
    sentence = _too_many_elements(container.tensors, len(data))
    if sentence:
        raise ModelError(sentence)
    return data


def loads(data: bytes) -> Container:
    """Return what the bytes of a ``.fly`` file hold; checks all of it, decodes no tensor.

    Raises `FormatError`, and nothing else, for whatever is wrong.
    """
    return _parse(bytes(data))[0]


def overhead(data: bytes) -> dict[str, int]:
    """Return the bytes of a ``.fly`` file that are in no tensor: header and checksums."""
    return _parse(bytes(data))[1]


def write(container: Container, path: str | os.PathLike[str]) -> int:
    """Write a ``.fly`` file, whole or not at all, and return its size in bytes.

    The bytes go to a temporary file in the same folder, which replaces ``path`` at the end. On
    any error (`OSError` for a full disk, say) the temporary file is removed and an existing
    ``path`` is left as it was.
    """
    data = dumps(container)
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name[:80]}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    return len(data)


def read(path: str | os.PathLike[str]) -> Container:
    """Return what a ``.fly`` file holds.

    Raises `FormatError` naming the file if it is damaged, `OSError` if it cannot be read.
    """
    try:
        return loads(Path(path).read_bytes())
    except FormatError as error:
        raise FormatError(f"{os.fspath(path)}: {error}") from error


def _crc(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(_CRC, "little")


def _code_header(header: bytes) -> tuple[bytes, bytes]:
    """Return the header as stored, and its sizes before coding: b"" if it is stored plainly."""
    table, payload = encode_symbols(list(header), 256)
    coded = table + payload
    sizes = varint(len(header)) + varint(len(table))
    if len(sizes) + len(coded) < len(header) <= _HEADER_PER_BYTE * len(coded):
        return coded, sizes
    return header, b""


def _payload(tensor: CodedTensor) -> bytes:
    return b"".join(tensor.parts[kind] for kind in PART_KINDS if kind in tensor.parts)


def _groups(tensors: Sequence[_T]) -> list[list[_T]]:
    """Return the tensors in the order of their bytes, in groups that share a checksum.

    The small ones come first and together; each other one is a group of its own.
    """
    groups = [[tensor for tensor in tensors if tensor.stored_bytes < _SMALL]]
    groups.extend([tensor] for tensor in tensors if tensor.stored_bytes >= _SMALL)
    return groups


def _first_defect(tensors: tuple[CodedTensor, ...]) -> str | None:
    names: set[str] = set()
    for index, tensor in enumerate(tensors):
        sentence = defect(tensor)
        if sentence:
            return sentence
        if tensor.name in names:
            return f"two tensors have the name {tensor.name!r}."
        names.add(tensor.name)
        if tensor.target is not None:
            earlier = tensors[tensor.target] if 0 <= tensor.target < index else tensor
            if earlier.encoding == "alias":
                return f"tensor {tensor.name!r} is an alias of no earlier tensor."
            if (earlier.shape, earlier.dtype) != (tensor.shape, tensor.dtype):
                return f"tensor {tensor.name!r} differs in shape or dtype from what it aliases."
    return None


def _too_many_elements(tensors: tuple[CodedTensor, ...], length: int) -> str | None:
    total = sum(tensor.size for tensor in tensors if tensor.encoding != "alias")
    if total <= bounded_size(length):
        return None
    return (
        f"the tensors have {total} elements in all, where a file of {length} bytes may stand "
        f"for at most {bounded_size(length)}."
    )


def _parse(data: bytes) -> tuple[Container, dict[str, int]]:
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
    if flags & ~_CODED_HEADER:
        raise FormatError(f"the file has unknown flags ({flags:#04x}).")
    stored_length = reader.varint()
    sizes = (reader.varint(), reader.varint()) if flags else None
    checks = reader.varint()
    stored = reader.take(stored_length)
    crcs = reader.take(_CRC * checks)
    head_end = reader.position
    if reader.take(_CRC) != _crc(data[:head_end]):
        raise FormatError("the header of the file is damaged: its checksum does not match.")
    outlines, metadata = unpack_header(_decode_header(stored, sizes))
    tensors = _take_tensors(data, reader.position, outlines, crcs)
    if data[-_CRC:] != _crc(data[:-_CRC]):
        raise FormatError("the file is damaged: the checksum at its end does not match.")
    sentence = _first_defect(tensors) or _too_many_elements(tensors, len(data))
    if sentence:
        raise FormatError(sentence)
    checksums = len(crcs) + 2 * _CRC
    parts = sum(tensor.stored_bytes for tensor in tensors)
    spent = {"header": len(data) - parts - checksums, "checksums": checksums}
    return Container(tensors=tensors, metadata=metadata), spent


def _decode_header(stored: bytes, sizes: tuple[int, int] | None) -> bytes:
    if sizes is None:
        return stored
    length, table = sizes
    if length > _HEADER_PER_BYTE * len(stored) or table > len(stored):
        raise FormatError(f"a header of {length} bytes cannot come from {len(stored)} bytes.")
    return decode_symbols(stored[:table], stored[table:], length, 256).astype("u1").tobytes()


def _take_tensors(
    data: bytes, start: int, outlines: list[Outline], crcs: bytes
) -> tuple[CodedTensor, ...]:
    """Return the tensors in the order of the header, their bytes taken and checked."""
    expected = start + sum(outline.stored_bytes for outline in outlines) + _CRC
    if len(data) != expected:
        what = "cut short" if len(data) < expected else "followed by other bytes"
        raise FormatError(
            f"the file is {what}: it has {len(data)} bytes and should have {expected}."
        )
    filled: dict[str, CodedTensor] = {}
    groups = [
        group for group in _groups(outlines) if any(outline.stored_bytes for outline in group)
    ]
    if len(crcs) != _CRC * len(groups):
        raise FormatError(f"the file has {len(crcs) // _CRC} checksums for {len(groups)} groups.")
    end = start
    for index, group in enumerate(groups):
        begin = end
        for outline in group:
            filled[outline.name] = outline.filled(data, end)
            end += outline.stored_bytes
        if crcs[_CRC * index : _CRC * (index + 1)] != _crc(data[begin:end]):
            names = f"tensor {group[0].name!r}" if len(group) == 1 else "one of the small tensors"
            raise FormatError(f"{names} is damaged: its checksum does not match.")
    return tuple(filled.get(outline.name) or outline.filled(data, end) for outline in outlines)
