"""Encode an array of integers as self-describing bytes, and decode it.

Whatever coder is taken, `decode` gives the same values, dtype and shape again. A file does not
use this: there the header says what the parts are. It is for those who want the coders alone.

Example:

>>> import numpy as np
>>> data = encode(np.array([[0, -3, 0], [1, 0, 0]], dtype=np.int8), "rans")
>>> decode(data)
array([[ 0, -3,  0],
       [ 1,  0,  0]], dtype=int8)
"""

from __future__ import annotations

from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flyweight.coding.context import context_limit, decode_context_values, encode_context_values
from flyweight.coding.huffman import decode_huffman, huffman_parts
from flyweight.coding.planes import decode_planes, encode_planes
from flyweight.coding.positions import bounded_size
from flyweight.coding.rans import decode_rans, rans_parts
from flyweight.coding.scalars import DTYPES, carrier
from flyweight.coding.symbols import Effort, coders_to_try
from flyweight.coding.varint import ByteReader, varint
from flyweight.errors import FormatError, ModelError

__all__ = ["decode", "encode"]

_CODERS = ("planes", "huffman", "rans", "context")  # the place is the number in the bytes
_INTEGERS = DTYPES[:9]
_WIDEST = 1 << 16
_MAX_RANK = 32
_SHIFT = 1 << 62  # the least value is stored with this added, so that it is never negative


def encode(
    symbols: ArrayLike,
    coder: Literal["auto", "huffman", "rans", "context", "planes"] = "auto",
    *,
    effort: Effort = "smallest",
    threads: int | None = None,
) -> bytes:
    """Return an array of integers as bytes from which `decode` gives it back.

    Args:
        symbols: bool or integers of any width, any shape.
        coder: "huffman" (interleaved streams), "rans", "context" (0 is an exact zero, and a value
            is predicted from its neighbors in the array), "planes" (byte by byte); "auto" takes
            what gives fewest bytes among the coders of the effort.
        effort: "fast", "balanced" or "smallest".
        threads: on which chunks of some million values are encoded; None for one a core.

    Raises `ModelError` for what is no integer, for an unknown coder, and for values that span
    more than 65,536 where the coder is named and is not "planes".
    """
    array = np.asarray(symbols)
    if array.dtype.name not in _INTEGERS:
        raise ModelError(f"symbols are integers or bool; these are {array.dtype}.")
    if coder != "auto" and coder not in _CODERS:
        raise ModelError(f"coder {coder!r} is unknown; choose 'auto' or {', '.join(_CODERS)}.")
    lowest = int(array.min()) if array.size else 0
    span = int(array.max()) - lowest + 1 if array.size else 1
    narrow = span <= _WIDEST and abs(lowest) < 1 << 30
    if coder != "auto":
        if coder != "planes" and not narrow:
            raise ModelError(f"symbols span {span} values from {lowest}; {coder} takes 65,536.")
        return _encode(array, coder, lowest, span, threads)
    tried = coders_to_try(_symbols(array, lowest, span)[0], effort) if narrow else ()
    found = (_encode(array, name, lowest, span, threads) for name in ("planes", *tried))
    return min((data for data in found if array.size <= _limit(data)), key=len)


def _limit(data: bytes) -> int:
    """How many values so many bytes may stand for; for those of the context coder, see there."""
    return context_limit(len(data)) if _CODERS[data[0]] == "context" else bounded_size(len(data))


def _symbols(array: NDArray[Any], lowest: int, span: int) -> tuple[NDArray[Any], int]:
    """Return values, 1-D, as uint8 or uint16, and what they are, modulo 256, above symbols."""
    flat = array.ravel()
    if flat.itemsize == 1:
        return flat.view(np.uint8), lowest & 0xFF
    kind = np.uint8 if span <= 256 else np.uint16
    return (flat - flat.dtype.type(lowest) if lowest else flat).astype(kind, copy=False), 0


def _encode(array: NDArray[Any], coder: str, lowest: int, span: int, threads: int | None) -> bytes:
    dtype = array.dtype.name
    start = bytes([_CODERS.index(coder), DTYPES.index(dtype)])
    start += b"".join(map(varint, (array.ndim, *array.shape)))
    if coder == "planes":
        values = np.ascontiguousarray(array.ravel(), dtype=carrier(dtype))
        return start + encode_planes(values, dtype, threads=threads)
    if not array.size:
        return start
    if coder == "context":
        return start + encode_context_values(array.astype(np.int32), threads=threads)
    start += varint(lowest + _SHIFT) + varint(span)
    flat, base = _symbols(array, lowest, span)

    def head(table: bytes) -> bytes:
        return start + varint(len(table)) + table

    if coder == "huffman":
        return huffman_parts(flat, span, base, threads, head)[1]
    table, *payload = rans_parts(flat, span, base, threads)
    return b"".join([head(table), *payload])


def decode(data: bytes, *, threads: int | None = None) -> NDArray[Any]:
    """Return the array that `encode` stored, of the same dtype and shape.

    Raises `FormatError` for anything that `encode` does not write.
    """
    reader = ByteReader(bytes(data), "the coded array")
    number, kind = reader.take(2)
    if number >= len(_CODERS) or kind >= len(_INTEGERS):
        raise FormatError(f"the coded array names coder {number} and dtype {kind}.")
    rank = reader.varint()
    if rank > _MAX_RANK:
        raise FormatError(f"the coded array has {rank} dimensions.")
    shape = tuple(reader.varint() for _ in range(rank))
    count = prod(shape)
    if count > bounded_size(len(data)):
        raise FormatError(f"{count} values are too many for {len(data)} bytes.")
    dtype = _INTEGERS[kind]
    try:
        return _decode(reader, _CODERS[number], shape, dtype, threads).reshape(shape)
    except ValueError as error:  # no values, and yet extents that are too large
        raise FormatError(f"no array has the shape {shape} of the coded array.") from error


def _decode(
    reader: ByteReader, coder: str, shape: tuple[int, ...], dtype: str, threads: int | None
) -> NDArray[Any]:
    count = prod(shape)
    if coder == "planes":
        stored = decode_planes(reader.rest(), count, dtype, threads=threads)
        return stored.astype(dtype, copy=False)
    if not count:
        if reader.rest():
            raise FormatError("a coded array of no values is not empty.")
        return np.zeros(0, dtype=dtype)
    if coder == "context":
        values = decode_context_values(reader.rest(), shape, threads=threads)
        _check_range(dtype, int(values.min()), int(values.max()))
        return values.astype(dtype)
    lowest, span, length = (reader.varint() for _ in range(3))
    if not 1 <= span <= _WIDEST:
        raise FormatError(f"the coded array has an alphabet of {span}.")
    lowest -= _SHIFT
    _check_range(dtype, lowest, lowest + span - 1)
    decode_symbols = decode_rans if coder == "rans" else decode_huffman
    table = reader.take(length)
    payload = memoryview(reader.data)[reader.position :]  # a slice of bytes would copy them
    symbols = decode_symbols(table, payload, count, span, threads=threads)
    if symbols.dtype.itemsize == np.dtype(dtype).itemsize:
        if lowest:  # sums wrap around to what they should be
            symbols += symbols.dtype.type(lowest & (1 << 8 * symbols.dtype.itemsize) - 1)
        return symbols.view(dtype)
    values = symbols.astype(dtype)
    return values + values.dtype.type(lowest) if lowest else values


def _check_range(dtype: str, lowest: int, highest: int) -> None:
    limits = (0, 1) if dtype == "bool" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if not limits[0] <= lowest <= highest <= limits[1]:
        raise FormatError(f"the coded array holds values that are no {dtype}.")
