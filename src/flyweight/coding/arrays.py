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

from flyweight.coding.coders import Effort, coders_to_try
from flyweight.coding.context.stream import decode_context, encode_context
from flyweight.coding.huffman import decode_huffman, encode_huffman
from flyweight.coding.planes import decode_planes, encode_planes
from flyweight.coding.positions import bounded_size
from flyweight.coding.rans import decode_rans, encode_rans
from flyweight.coding.scalars import DTYPES, carrier
from flyweight.coding.varint import ByteReader, varint
from flyweight.errors import FormatError, ModelError

__all__ = ["decode", "encode"]

_CODERS = ("planes", "interleaved", "rans", "context")  # the place is the number in the bytes
_NAMES = {"huffman": "interleaved", "rans": "rans", "context": "context", "planes": "planes"}
_INTEGERS = DTYPES[:9]
_WIDEST = 1 << 16
_MAX_RANK = 32
_SHIFT = 1 << 62  # the least value is stored with this added, so that it is never negative


def encode(
    symbols: ArrayLike,
    coder: Literal["auto", "huffman", "rans", "context", "planes"] = "auto",
    *,
    effort: Effort = "smallest",
) -> bytes:
    """Return an array of integers as bytes from which `decode` gives it back.

    Args:
        symbols: bool or integers of any width, any shape.
        coder: "huffman" (several interleaved streams), "rans", "context" (0 is an exact zero, and
            a value is predicted from its neighbors in the array), "planes" (byte by byte); "auto"
            takes what gives fewest bytes among the coders of the effort.
        effort: "fast", "balanced" or "smallest".

    Raises `ModelError` for what is no integer, for an unknown coder, and for values that span
    more than 65,536 where the coder is named and is not "planes".
    """
    array = np.asarray(symbols)
    if array.dtype.name not in _INTEGERS:
        raise ModelError(f"symbols are integers or bool; these are {array.dtype}.")
    if coder != "auto" and coder not in _NAMES:
        raise ModelError(f"coder {coder!r} is unknown; choose 'auto' or {', '.join(_NAMES)}.")
    lowest = int(array.min()) if array.size else 0
    span = int(array.max()) - lowest + 1 if array.size else 1
    narrow = span <= _WIDEST and abs(lowest) < 1 << 30
    if coder != "auto":
        if coder != "planes" and not narrow:
            raise ModelError(f"symbols span {span} values from {lowest}; {coder} takes 65,536.")
        return _encode(array, _NAMES[coder], lowest, span)
    tried = coders_to_try(array.astype(np.int64) - lowest, effort) if narrow else ()
    return min((_encode(array, name, lowest, span) for name in ("planes", *tried)), key=len)


def _encode(array: NDArray[Any], coder: str, lowest: int, span: int) -> bytes:
    dtype = array.dtype.name
    start = bytes([_CODERS.index(coder), DTYPES.index(dtype)])
    start += b"".join(map(varint, (array.ndim, *array.shape)))
    if coder == "planes":
        values = np.ascontiguousarray(array.ravel(), dtype=carrier(dtype))
        return start + encode_planes(values, dtype)
    if not array.size:
        return start
    if coder == "context":
        return start + encode_context(array.astype(np.int32))
    shifted = (array.astype(np.int64) - lowest).ravel()
    table, payload = (encode_rans if coder == "rans" else encode_huffman)(shifted, span)
    fields = (lowest + _SHIFT, span, len(table))
    return start + b"".join(map(varint, fields)) + table + payload


def decode(data: bytes) -> NDArray[Any]:
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
    values = _decode(reader, _CODERS[number], shape, dtype)
    limits = np.iinfo(dtype) if dtype != "bool" else None
    lowest, highest = (int(limits.min), int(limits.max)) if limits else (0, 1)
    if count and not lowest <= int(values.min()) <= int(values.max()) <= highest:
        raise FormatError(f"the coded array holds values that are no {dtype}.")
    try:
        return values.astype(dtype).reshape(shape)
    except ValueError as error:  # no values, and yet extents that are too large
        raise FormatError(f"no array has the shape {shape} of the coded array.") from error


def _decode(reader: ByteReader, coder: str, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    count = prod(shape)
    if coder == "planes":
        return decode_planes(reader.rest(), count, dtype)
    if not count:
        if reader.rest():
            raise FormatError("a coded array of no values is not empty.")
        return np.zeros(0, dtype=np.int64)
    if coder == "context":
        return decode_context(reader.rest(), shape)
    lowest, span, length = (reader.varint() for _ in range(3))
    if not 1 <= span <= _WIDEST:
        raise FormatError(f"the coded array has an alphabet of {span}.")
    table = reader.take(length)
    decode_with = decode_rans if coder == "rans" else decode_huffman
    symbols = decode_with(table, reader.rest(), count, span)
    return symbols.astype(np.int64) + (lowest - _SHIFT)
