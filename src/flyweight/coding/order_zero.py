"""Order-0 entropy: the lower bound of codes that treat each symbol by itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["entropy"]


def entropy(counts: ArrayLike) -> float:
    """Compute the total order-0 entropy, in bits, of symbols that occur ``counts`` times.

    With n symbols of frequencies p_k that is n times -sum(p_k log2 p_k); divide by n for
    bits a symbol. A report uses it, a file never does: no stored byte depends on a float.

    >>> entropy([4, 2, 2])
    12.0

    Source: Shannon 1948, section 6.
    """
    occurring = np.asarray(counts, dtype=np.float64).ravel()
    occurring = occurring[occurring > 0]
    if occurring.size < 2:
        return 0.0
    return float(-np.sum(occurring * np.log2(occurring / occurring.sum())))
