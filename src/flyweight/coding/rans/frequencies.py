"""Quantize symbol frequencies for rANS, and compute code lengths, in integers."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["ceiling", "code_length", "floor_log2", "frequencies"]

_POWERS = np.left_shift(1, np.arange(1, 20))


def frequencies(counts: ArrayLike, bits: int) -> NDArray[np.int64]:
    """Return integer frequencies that sum to 2**bits and make the code as short as they can.

    Args:
        counts: occurrences of each symbol, shape (U,), all positive; 2 <= U <= 2**bits.
        bits: probability bits, at most 16.

    Returns shape (U,): each at least 1, and at most 2**bits - 2**bits // 512, so that no symbol
    is cheaper than 1/512 bit and a short file cannot stand for a vast array. Starts below the
    proportional share, and moves units while one gains more elsewhere; the gain of the unit
    after f, count * ln(1 + 1/f), is taken as count * (6f + 3) / (6f**2 + 6f + 1), in
    integers.

    >>> frequencies([90, 5, 5], 9).tolist()
    [460, 26, 26]
    """
    counts = np.asarray(counts, dtype=np.int64)
    size = 1 << bits
    highest = ceiling(bits)
    scaled = np.maximum(counts >> max(0, int(counts.sum()).bit_length() - 28), 1)
    result = np.ones(counts.size, dtype=np.int64)
    active = np.ones(counts.size, dtype=np.bool_)
    while True:
        room = size - int(np.count_nonzero(~active))
        share = scaled * room // int(scaled[active].sum())
        if not (active & (share < 1)).any():
            break
        active &= share >= 1
    result[active] = np.minimum(share[active], highest)

    def worth(unit: NDArray[np.int64]) -> NDArray[np.int64]:
        value: NDArray[np.int64] = scaled * (6 * unit + 3) << 14
        return value // (6 * unit * unit + 6 * unit + 1)

    spare = size - int(result.sum())
    while spare:
        gain = np.where(result < highest, worth(result), -1)
        best = np.argsort(-gain, kind="stable")[: min(spare, int(np.count_nonzero(gain >= 0)))]
        result[best] += 1
        spare -= best.size
    while True:
        gain = np.where(result < highest, worth(result), -1)
        loss = np.where(result > 1, worth(np.maximum(result - 1, 1)), np.iinfo(np.int64).max)
        up, down = np.argsort(-gain, kind="stable"), np.argsort(loss, kind="stable")
        moves = int(np.count_nonzero(gain[up] > loss[down]))
        if not moves:
            return result
        result[up[:moves]] += 1
        result[down[:moves]] -= 1


def ceiling(bits: int) -> int:
    """Return the highest frequency that a symbol may have."""
    return (1 << bits) - max(1, 1 << bits >> 9)


def code_length(counts: NDArray[np.int64], frequency: NDArray[np.int64], bits: int) -> int:
    """Return the bits that the counted symbols take."""
    cost: int = (counts * ((bits << 16) - _log2_table()[frequency])).sum().item()
    return cost >> 16


@lru_cache(maxsize=1)
def _log2_table() -> NDArray[np.int64]:
    """Return 2**16 log2(n) for n below 2**16, rounded down, in integers; shape (65536,)."""
    log2 = floor_log2(np.arange(1 << 16))
    mantissa = np.arange(1 << 16).astype(np.uint64) << (31 - log2).astype(np.uint64)
    for _ in range(16):
        mantissa = mantissa * mantissa >> np.uint64(31)
        carry = mantissa >> np.uint64(32)
        mantissa >>= carry
        log2 = 2 * log2 + carry.astype(np.int64)
    return log2


def floor_log2(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return log2 of numbers below 2**20, rounded down; 0 of 0."""
    result: NDArray[np.int64] = _POWERS.searchsorted(numbers, side="right")
    return result
