"""Map symbols of ascending levels to their places above and below zero, and back."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["signed_values", "symbols_of"]


def signed_values(symbols: ArrayLike, negatives: int) -> NDArray[np.int32]:
    """Return the place of each symbol's level above or below zero.

    Symbol 0 is zero and symbol k the k-th level in ascending order, of which the first
    ``negatives`` lie below zero.

    >>> signed_values([0, 1, 2, 3, 4], 2).tolist()
    [0, -2, -1, 1, 2]
    """
    places = np.asarray(symbols, dtype=np.int64)
    values = places - negatives - (places <= negatives)
    return np.where(places == 0, 0, values).astype(np.int32)


def symbols_of(values: ArrayLike, negatives: int) -> NDArray[np.int32]:
    """Return the symbols that `signed_values` was given.

    >>> symbols_of([0, -2, -1, 1, 2], 2).tolist()
    [0, 1, 2, 3, 4]
    """
    places = np.asarray(values, dtype=np.int32)
    symbols = np.asarray(places + (places < 0))  # of no dimensions, the sum is no array
    symbols += negatives
    symbols *= places != 0
    return symbols
