"""Dequantize: the levels of symbols, times the scale and plus the offset of their channel.

A channel is a place along the first axis of a tensor. The arithmetic is part of the file format:
single steps in float32 (float64 for values of float64), each rounded to nearest, ties to even, so
that every machine gives the same bits. Values of 16 bits are rounded once more, at the end.

Source: scales for each channel as in Krishnamoorthi 2018, "Quantizing deep convolutional networks
for efficient inference", section 2.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flyweight import _native
from flyweight.coding.scalars import DTYPES
from flyweight.coding.threads import in_threads

__all__ = ["SCALED_DTYPES", "all_finite", "dequantized"]

SCALED_DTYPES = ("float16", "bfloat16", "float32", "float64")
_INFINITY = {"float16": 0x7C00, "bfloat16": 0x7F80, "float32": 0xFF << 23, "float64": 0x7FF << 52}
_BLOCK = 1 << 20  # elements that a thread dequantizes at a time


def dequantized(
    symbols: NDArray[Any],
    levels: NDArray[Any],
    dtype: str,
    scales: NDArray[Any] | None = None,
    offsets: NDArray[Any] | None = None,
    *,
    threads: int | None = None,
) -> NDArray[Any]:
    """Return the values of symbols, in their shape.

    Args:
        symbols: uint8 or uint16: 0 for zero, k for the k-th level.
        levels: 1-D, of the carrier of ``dtype``, as scales and offsets are.
        dtype: of the values; one of `SCALED_DTYPES` if there are scales.
        scales: 1-D, as long as the first extent; None multiplies by nothing.
        offsets: the same; None adds nothing.
        threads: to work on; None for one a core.

    Raises ValueError where a symbol has no level.

    >>> symbols = np.uint8([[0, 1, 2], [0, 1, 2]])
    >>> scales, offsets = np.float32([1, 0.5]), np.float32([0, 3])
    >>> dequantized(symbols, np.float32([1, 2]), "float32", scales, offsets).tolist()
    [[0.0, 1.0, 2.0], [0.0, 3.5, 4.0]]
    """
    rows = symbols.shape[0] if scales is not None else 1
    out = np.empty(symbols.shape, levels.dtype)
    if not symbols.size:
        return out
    matrix, values = (np.ascontiguousarray(array).reshape(rows, -1) for array in (symbols, out))
    high = max(1, _BLOCK // matrix.shape[1])
    number = DTYPES.index(dtype)

    def work(block: tuple[slice, slice]) -> None:
        tables = (None if table is None else table[block[0]] for table in (scales, offsets))
        _native.dequantize(matrix[block], matrix.itemsize, levels, number, *tables, values[block])

    blocks = [
        (slice(top, top + high), slice(left, left + _BLOCK))
        for top in range(0, rows, high)
        for left in range(0, matrix.shape[1], _BLOCK)
    ]
    in_threads(work, blocks, threads)
    return out


def all_finite(values: NDArray[Any], dtype: str) -> bool:
    """Return whether values of the carrier of ``dtype`` are neither NaN nor infinite."""
    bits = np.ascontiguousarray(values).view(f"<u{values.itemsize}")
    infinity = bits.dtype.type(_INFINITY[dtype])
    return not bool((bits & infinity == infinity).any())
