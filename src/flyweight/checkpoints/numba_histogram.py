"""Loops over all values of a tensor, compiled by Numba: without the GIL, which NumPy keeps here."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from flyweight.coding.numba_compiler import kernel

__all__ = ["count", "look_up"]


@kernel
def count(keys: NDArray[Any], counts: NDArray[Any]) -> None:
    """Add to ``counts``, shape (65536,), how often each key occurs."""
    for key in keys:
        counts[key] += 1


@kernel
def look_up(keys: NDArray[Any], table: NDArray[Any], out: NDArray[Any]) -> None:
    """Fill ``out`` with ``table[key]`` of each key; ``table`` has shape (65536,)."""
    for place in range(keys.size):
        out[place] = table[keys[place]]
