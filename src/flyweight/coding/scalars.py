"""Pack numbers as little-endian bytes, in their own dtype or in a narrower one that is exact.

A dtype is known by its usual name. Types that numpy lacks are carried as their bits:
bfloat16 as uint16, the float8 types as uint8.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flyweight import _native
from flyweight.errors import FormatError, ModelError

__all__ = [
    "DTYPES",
    "all_equal",
    "ascending_words",
    "carrier",
    "distinct_words",
    "may_store",
    "negative_count",
    "nonzero_count",
    "pack_scalars",
    "unpack_scalars",
    "widened",
    "word_places",
    "words_of",
]

#: Data types of tensors in a file.
#: The index in this tuple is the number in the file: add at the end only.
DTYPES = (
    "bool",
    "uint8",
    "int8",
    "uint16",
    "int16",
    "uint32",
    "int32",
    "uint64",
    "int64",
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "float8_e4m3fn",
    "float8_e5m2",
    "complex64",
    "complex128",
)
_CARRIERS = {"bfloat16": "uint16", "float8_e4m3fn": "uint8", "float8_e5m2": "uint8"}
# What else a dtype may be stored as, the first choice first.
_NARROWER: dict[str, tuple[str, ...]] = {
    "int16": ("uint8", "int8"),
    "int32": ("uint8", "int8", "uint16", "int16"),
    "int64": ("uint8", "int8", "uint16", "int16", "uint32", "int32"),
    "float32": ("float8_e5m2", "float8_e4m3fn", "float16", "bfloat16"),
    "float64": ("float16", "float32"),
}


@functools.cache
def carrier(dtype: str) -> np.dtype[Any]:
    """Return the little-endian numpy dtype that carries values of ``dtype``.

    >>> carrier("bfloat16")
    dtype('uint16')
    """
    return np.dtype("<" + np.dtype(_CARRIERS.get(dtype, dtype)).str[1:])


@functools.cache
def may_store(dtype: str, storage: str) -> bool:
    """Return whether values of ``dtype`` may be stored as ``storage``."""
    return dtype in DTYPES and (storage == dtype or storage in _NARROWER.get(dtype, ()))


def pack_scalars(values: ArrayLike, dtype: str, storage: str | None = None) -> tuple[bytes, str]:
    """Return values as raw bytes, and the dtype they are stored in.

    Args:
        values: array of the carrier of ``dtype``, any shape; read in C order.
        dtype: what the values are, and are again when read.
        storage: what to store them as; None takes the narrowest that loses no bit.

    Raises `ModelError` if ``storage`` would not give back every value bit for bit.

    >>> pack_scalars(np.float32([0.5, 2.0]), "float32")
    (b'8@', 'float8_e5m2')
    """
    if dtype not in DTYPES:
        raise ModelError(f"dtype {dtype!r} cannot be stored; known are {', '.join(DTYPES)}.")
    flat = np.asarray(values).ravel()
    if flat.dtype.newbyteorder("=") != carrier(dtype).newbyteorder("="):
        raise ModelError(
            f"values of dtype {dtype} must come as {carrier(dtype)}, not {flat.dtype}."
        )
    flat = np.ascontiguousarray(flat.astype(carrier(dtype), copy=False))
    if storage is not None and not may_store(dtype, storage):
        raise ModelError(f"values of dtype {dtype} cannot be stored as {storage!r}.")
    choices = (*_NARROWER.get(dtype, ()), dtype) if storage is None else (storage,)
    for choice in choices:
        if choice == dtype:
            return flat.tobytes(), choice
        stored = _narrow(flat, dtype, choice)
        if stored is not None:
            return stored, choice
    raise ModelError(f"values of dtype {dtype} are not exact in {storage}; round them first.")


def _narrow(flat: NDArray[Any], dtype: str, storage: str) -> bytes | None:
    """Return values in a narrower dtype, or None where a bit would be lost."""
    kind = carrier(storage)
    if flat.dtype.kind != "f":
        low, high = np.iinfo(kind).min, np.iinfo(kind).max
        fits = not flat.size or (flat.min() >= low and flat.max() <= high)
        return flat.astype(kind).tobytes() if fits else None
    narrow = np.empty(flat.size, kind)
    exact = _native.narrow(flat, DTYPES.index(dtype), DTYPES.index(storage), narrow)
    return narrow.tobytes() if exact else None


def _widen_subnormals_(values: NDArray[Any], stored: NDArray[Any]) -> None:
    """Set the float64 values of subnormal float32, by integers: programs may flush them to zero."""
    bits = stored.view("<u4")
    small = np.flatnonzero(((bits & 0x7F800000) == 0) & ((bits & 0x7FFFFF) != 0))
    if small.size:
        sizes = (bits[small] & 0x7FFFFF).astype("<f8") * 2.0**-149
        values[small] = np.where(bits[small] >> 31, -sizes, sizes)


def unpack_scalars(raw: bytes, dtype: str, storage: str) -> NDArray[Any]:
    """Return the values that `pack_scalars` stored, as an array of the carrier of ``dtype``."""
    kind = carrier(storage)
    if len(raw) % kind.itemsize:
        raise FormatError(f"{len(raw)} bytes are not a whole number of {storage} values.")
    return widened(np.frombuffer(raw, dtype=kind), dtype, storage)


def widened(stored: NDArray[Any], dtype: str, storage: str) -> NDArray[Any]:
    """Convert stored values to the carrier of ``dtype``, exactly. Raises `FormatError`."""
    if not may_store(dtype, storage):
        raise FormatError(f"values of dtype {dtype!r} cannot be stored as {storage!r}.")
    if storage == "bool" and (stored.view(np.uint8) > 1).any():
        raise FormatError("a value of dtype bool is neither 0 nor 1.")
    if storage == dtype:
        return stored
    values: NDArray[Any]
    if storage == "bfloat16":
        values = (stored.astype("<u4") << 16).view("<f4")
        return values
    if storage == "float8_e4m3fn":
        values = _float8_values()[stored]
    else:
        if storage == "float8_e5m2":  # the upper byte of a float16
            stored = (stored.astype("<u2") << 8).view("<f2")
        with np.errstate(all="ignore"):
            values = stored.astype(carrier(dtype))
    if (dtype, storage) == ("float64", "float32"):
        _widen_subnormals_(values, stored)
    if values.dtype.kind == "f":
        narrow = carrier(storage).itemsize == 1
        if np.isnan(values).any() or (narrow and np.isinf(values).any()):
            raise FormatError(f"a value of dtype {dtype} is not a number that {storage} can hold.")
    return values


def _float8_values() -> NDArray[np.float32]:
    """Return the values of all float8_e4m3fn by their bits."""
    sizes, exponents = np.meshgrid(np.arange(8.0), np.arange(16))
    values = np.ldexp(sizes + 8 * (exponents > 0), np.maximum(exponents, 1) - 10).ravel()
    values[-1] = np.nan
    return np.concatenate([values, -values]).astype("<f4")


def nonzero_count(values: NDArray[Any], dtype: str) -> int:
    """Count the values, of the carrier of ``dtype``, that are not zero (-0.0 is zero, NaN is not).

    >>> nonzero_count(np.float32([0, -0.0, 1e-45]), "float32")
    1
    """
    return int(np.count_nonzero(_magnitudes(values, dtype)))


def negative_count(values: NDArray[Any], dtype: str) -> int:
    """Count the values, of the carrier of ``dtype``, that are below zero; 0 for complex ones."""
    if values.dtype.kind == "i":
        return int(np.count_nonzero(values < 0))
    if dtype not in _CARRIERS and values.dtype.kind != "f":
        return 0
    bits = _bits(values)
    negative = bits >> (8 * bits.dtype.itemsize - 1) != 0
    return int(np.count_nonzero(negative & (_magnitudes(values, dtype) != 0)))


def _bits(values: NDArray[Any]) -> NDArray[Any]:
    bits: NDArray[Any] = np.ascontiguousarray(values).view(f"<u{values.dtype.itemsize}")
    return bits


def _magnitudes(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Return integers that are 0 where a value is: flushed floats would compare as 0."""
    if values.dtype.kind == "c":
        parts = np.ascontiguousarray(values).view(f"<f{values.dtype.itemsize // 2}")
        return np.asarray(_magnitudes(parts.reshape(-1, 2), "").any(axis=1))
    if dtype in _CARRIERS or values.dtype.kind == "f":
        bits = _bits(values)
        return np.asarray(bits & bits.dtype.type((1 << (8 * bits.dtype.itemsize - 1)) - 1))
    return values


def distinct_words(
    values: NDArray[Any], limit: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64]] | None:
    """Return the distinct values by their bits, ascending, and how often each occurs.

    None where there are more than ``limit``, at most 65,536, or values have 16 bytes.

    >>> words, counts = distinct_words(np.float32([1, -0.0, 1]), 10)
    >>> [hex(word) for word in words], counts.tolist()
    (['0x3f800000', '0x80000000'], [2, 1])
    """
    if values.itemsize > 8:
        return None
    words, counts = np.empty(limit, np.uint64), np.empty(limit, np.int64)
    found = _native.distinct(np.ascontiguousarray(values), values.itemsize, words, counts)
    if found > limit:
        return None
    order = np.argsort(words[:found])
    return words[order], counts[order]


def word_places(values: NDArray[Any], words: NDArray[np.uint64]) -> NDArray[Any]:
    """Return the place of each value among distinct words in any order, as uint8 or uint16.

    ``values`` have at most 8 bytes each, and all of them are among ``words``.

    >>> word_places(np.uint8([7, 9, 7]), np.uint64([9, 7])).tolist()
    [1, 0, 1]
    """
    places = np.empty(values.shape, np.uint8 if words.size <= 256 else np.uint16)
    _native.places(np.ascontiguousarray(values), values.itemsize, words, places)
    return places


def ascending_words(
    words: NDArray[np.uint64], dtype: str, kind: np.dtype[Any]
) -> NDArray[np.uint64]:
    """Order bits, which ascend as unsigned integers, by the values of ``dtype`` that they are.

    Negative zero comes before the values above zero; ``kind`` is the carrier.
    """
    floating = kind.kind == "f" or dtype in _CARRIERS
    if not floating and kind.kind != "i":
        return words
    negative = words >> np.uint64(8 * kind.itemsize - 1) != 0
    below = words[negative]
    return np.concatenate([below[::-1] if floating else below, words[~negative]])


def words_of(values: NDArray[Any]) -> NDArray[Any]:
    """View values, 1-D, as unsigned integers of the same bits; of 16 bytes, 1 for any bit set."""
    flat = values.reshape(-1)
    if flat.dtype.itemsize == 16:
        return np.asarray(flat.view("<u8").reshape(-1, 2).any(axis=1)).view(np.uint8)
    return flat.view(f"<u{flat.dtype.itemsize}")


def all_equal(values: NDArray[Any]) -> bool:
    """Return whether there is a value and all have the same bits."""
    words = np.ascontiguousarray(values)
    return values.size > 0 and bool(_native.all_equal(words, words.itemsize))
