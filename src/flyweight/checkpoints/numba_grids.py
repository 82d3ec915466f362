"""Loops of `uniform_grids` over all values of a tensor, compiled by Numba, without the GIL."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flyweight.coding.numba_compiler import kernel

__all__ = ["look_up", "tally"]


@kernel
def tally(
    part: NDArray[Any],
    steps: NDArray[Any],
    counts: NDArray[Any],
    sums: NDArray[Any],
    squares: NDArray[Any],
) -> None:
    """Add to the count of each multiple, to the sum of what is beyond it, and to the squares.

    The multiple 0 has the slot in the middle of ``counts`` and ``sums``.
    """
    zero = counts.shape[0] // 2
    for row in range(part.shape[0]):
        for column in range(part.shape[1]):
            units = part[row, column] / steps[row]
            nearest = np.rint(units)
            if abs(nearest) < zero:
                slot = np.int64(nearest) + zero
                rest = np.float64(units - nearest)
                counts[slot] += 1
                sums[slot] += rest
                squares[row] += rest * rest
            else:
                counts[0] += 1


@kernel
def look_up(
    part: NDArray[Any], steps: NDArray[Any], table: NDArray[Any], out: NDArray[Any]
) -> None:
    """Fill ``out`` with the entry of ``table`` for the multiple of each value, 0 in the middle."""
    zero = table.shape[0] // 2
    for row in range(part.shape[0]):
        for column in range(part.shape[1]):
            nearest = np.rint(part[row, column] / steps[row])
            slot = np.int64(nearest) + zero if abs(nearest) < zero else np.int64(0)
            out[row, column] = table[slot]
