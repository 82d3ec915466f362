"""Lets the compiled loops check their bounds, those too that read and write whole words.

Numba checks the indices of arrays where ``NUMBA_BOUNDSCHECK`` is set. `load` and `store` of
`interleaved_kernels` and the steps of `rans.vectors` go past that, so they are exchanged here,
before anything is compiled.
"""

from __future__ import annotations

from typing import Any

__all__ = ["check_kernels"]


def check_kernels() -> None:
    """Exchange what goes past the checks of Numba."""
    import numpy as np
    from numba import config, njit

    from flyweight.coding import interleaved_kernels
    from flyweight.coding.rans import vectors

    if not config.BOUNDSCHECK:
        raise RuntimeError("Numba was imported before it was told to check bounds")
    load, store = interleaved_kernels.load, interleaved_kernels.store
    decode_eight, encode_eight = vectors._decode_eight, vectors._encode_eight

    @njit(nogil=True)
    def check(array: Any, at: Any) -> None:
        if np.int64(at) < 0 or np.int64(at) + 8 > array.size:
            raise IndexError("eight elements are outside their array")

    @njit(nogil=True)
    def checked_load(data: Any, at: Any) -> Any:
        check(data, at)
        return load(data, at)

    @njit(nogil=True)
    def checked_store(data: Any, at: Any, word: Any) -> Any:
        check(data, at)
        return store(data, at, word)

    @njit(nogil=True)
    def checked_decode(
        words: Any, at: Any, entries: Any, orders: Any, states: Any, lane: Any, out: Any, index: Any
    ) -> Any:
        check(words, at)
        check(states, lane)
        check(out, index)
        return decode_eight(words, at, entries, orders, states, lane, out, index)

    @njit(nogil=True)
    def checked_encode(
        symbols: Any,
        index: Any,
        entries: Any,
        orders: Any,
        states: Any,
        lane: Any,
        words: Any,
        at: Any,
    ) -> Any:
        check(symbols, index)
        check(states, lane)
        check(words, np.int64(at) - 8)
        return encode_eight(symbols, index, entries, orders, states, lane, words, at)

    interleaved_kernels.load, interleaved_kernels.store = checked_load, checked_store
    vectors._decode_eight, vectors._encode_eight = checked_decode, checked_encode
