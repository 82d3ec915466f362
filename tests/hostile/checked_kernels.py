"""Lets the compiled loops check their bounds, those too that read and write whole words.

Numba checks the indices of arrays where ``NUMBA_BOUNDSCHECK`` is set. `load` and `store` of
`interleaved_kernels` go past that, so they are exchanged here, before anything is compiled.
"""

from __future__ import annotations

from typing import Any

__all__ = ["check_kernels"]


def check_kernels() -> None:
    """Exchange what goes past the checks of Numba."""
    import numpy as np
    from numba import config, njit

    from flyweight.coding import context_kernels, interleaved_kernels

    if not config.BOUNDSCHECK:
        raise RuntimeError("Numba was imported before it was told to check bounds")
    load, store = interleaved_kernels.load, interleaved_kernels.store

    @njit(nogil=True)
    def checked_load(data: Any, at: Any) -> Any:
        if np.int64(at) < 0 or np.int64(at) + 8 > data.size:
            raise IndexError("a word is read outside its array")
        return load(data, at)

    @njit(nogil=True)
    def checked_store(data: Any, at: Any, word: Any) -> Any:
        if np.int64(at) < 0 or np.int64(at) + 8 > data.size:
            raise IndexError("a word is written outside its array")
        return store(data, at, word)

    interleaved_kernels.load, interleaved_kernels.store = checked_load, checked_store
    # as they stand there they take an error for a damaged cache, and begin once more
    context_kernels.encode_chunk = njit(nogil=True)(context_kernels._encode_chunk)
    context_kernels.decode_chunk = njit(nogil=True)(context_kernels._decode_chunk)
