"""Adaptive binary context coder: symbols from the magnitudes of their neighbors.

Theory: a symbol is coded by binary decisions: whether it is zero, its sign, the digits of its
magnitude. For each there is an estimate of the chance of a 1, learned from the decisions before it
in the same context, and an arithmetic coder takes -log2 of the chance of what occurs. The context
is how large the neighbors are: within kernels a prediction from three of them, elsewhere the
energies of row and column. So no table is stored, and dependence between weights saves bytes.

Cost: some tens of millions of symbols a second each way, more where most are zeros.

Example:

>>> symbols = np.zeros((64, 512), dtype=np.uint8)
>>> symbols[:, ::7] = 1
>>> payload = encode_context(symbols, 1)
>>> len(payload) < 600, bool((decode_context(payload, (64, 512), 1, 3) == symbols).all())
(True, True)

Sources: Martin 1979 (range coding); Marpe, Schwarz & Wiegand 2003 (CABAC); Wiedemann et al. 2020
(DeepCABAC).
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flyweight import _native
from flyweight.coding.threads import in_threads
from flyweight.coding.varint import varint
from flyweight.errors import FormatError, ModelError

__all__ = [
    "context_costs",
    "context_limit",
    "decode_context",
    "decode_context_values",
    "encode_context",
    "encode_context_values",
]


#: Bits of a chance of (k + 1/2) / 4096.
_BITS = -np.log2((np.arange(4096, dtype=np.float32) + np.float32(0.5)) / np.float32(4096))


def context_limit(stored: int) -> int:
    """Return how many elements a stream of ``stored`` bytes may stand for."""
    return (1 << 20) + 512 * stored


def encode_context(symbols: NDArray[Any], negatives: int, *, threads: int | None = None) -> bytes:
    """Return symbols as one context-coded stream, which may be too short for `context_limit`.

    Args:
        symbols: integers of at most 16 bits, any shape: 0 is an exact zero, 1 to ``negatives``
            are levels below zero, ascending, the others levels above it. No shape is stored.
        negatives: number of levels below zero.
        threads: how many chunks are coded at once; by default one a core. Same bytes.
    """
    if symbols.dtype not in (np.uint8, np.uint16):
        symbols = symbols.astype(np.uint16)
    return _encode(np.asarray(symbols, order="C"), negatives, threads)


def encode_context_values(values: ArrayLike, *, threads: int | None = None) -> bytes:
    """Return integers in the range of int32 as one context-coded stream; 0 is an exact zero.

    Raises `ModelError` if values are no integers or lie outside int32.
    """
    array = np.asarray(values)
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise ModelError(f"context coding takes integers, not {array.dtype}.")
    least, most = (int(array.min()), int(array.max())) if array.size else (0, 0)
    if least < -(1 << 31) or most >= 1 << 31:
        raise ModelError(f"context coding takes values of int32; {least} to {most} were given.")
    return _encode(np.asarray(array, dtype=np.int32, order="C"), 0, threads)


def _encode(array: NDArray[Any], negatives: int, threads: int | None) -> bytes:
    if not array.size:
        return b""
    shape = np.array(array.shape, dtype=np.uint64)
    given = (array, array.itemsize, negatives, shape)
    header, chunks = _native.context_header(*given)
    coded = in_threads(
        lambda chunk: _native.context_encode(*given, header, chunk), range(chunks), threads
    )
    return b"".join([header, *(varint(len(chunk)) for chunk in coded[:-1]), *coded])


def context_costs(values: ArrayLike, most: int) -> NDArray[np.float32]:
    """Return the bits that each value from -most to most would take in the place of each value.

    Args:
        values: integers in the range of int32, of any shape.
        most: from 0 to 127.

    Returns:
        float32 of shape (\\*values.shape, 2 * most + 1): the bits that the coder would take at its
        place for the value, with what it has learned before from the values as they are.

    >>> costs = context_costs(np.eye(64, dtype=np.int32), 1)
    >>> costs.shape, bool(costs[-1, 0, 1] < 0.5 < costs[-1, 0, 2])
    ((64, 64, 3), True)
    """
    array = np.asarray(values, dtype=np.int32, order="C")
    costs = np.empty((*array.shape, 2 * most + 1), dtype=np.float32)
    if array.size:
        shape = np.array(array.shape, dtype=np.uint64)
        header, chunks = _native.context_header(array, 4, 0, shape)
        for chunk in range(chunks):
            _native.context_costs(array, shape, header, chunk, _BITS, most, costs)
    return costs


def decode_context(
    payload: bytes,
    shape: tuple[int, ...],
    negatives: int,
    alphabet: int,
    *,
    threads: int | None = None,
) -> NDArray[Any]:
    """Return the symbols that `encode_context` stored, uint8 if the alphabet is 256 or less.

    Raises `FormatError` if the payload is not exactly what the encoder writes, or a symbol is not
    below ``alphabet``. More elements than `context_limit` are refused before anything is allocated.
    """
    kind = np.dtype(np.uint8 if alphabet <= 256 else np.uint16)
    return _decode(payload, shape, negatives, alphabet, kind, threads)


def decode_context_values(
    payload: bytes, shape: tuple[int, ...], *, threads: int | None = None
) -> NDArray[np.int32]:
    """Return the values that `encode_context_values` stored; otherwise as `decode_context`."""
    return _decode(payload, shape, 0, 0, np.dtype(np.int32), threads)


def _decode(
    payload: bytes,
    shape: tuple[int, ...],
    negatives: int,
    alphabet: int,
    kind: np.dtype[Any],
    threads: int | None,
) -> NDArray[Any]:
    count = prod(shape)
    if min(shape, default=0) < 0:
        raise FormatError(f"a context-coded tensor has the negative shape {shape}.")
    if count == 0:
        if payload:
            raise FormatError("a context-coded stream of no values is not empty.")
        return np.zeros(shape, dtype=kind)
    if count > context_limit(len(payload)):
        raise FormatError(f"{count} context-coded values cannot fit in {len(payload)} bytes.")
    extents = np.array(shape, dtype=np.uint64)
    chunks = max(1, _native.context_chunks(payload, extents))  # where unsound, decoding says why
    values = np.empty(count, dtype=kind)

    def decode(chunk: int) -> None:
        fields = (negatives, alphabet, values, kind.itemsize, chunk, 1)
        _native.context_decode(payload, extents, *fields)

    in_threads(decode, range(chunks), threads)
    return values.reshape(shape)
