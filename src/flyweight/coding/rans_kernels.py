"""The loops of `rans`, compiled by Numba: imported only where a stream is long enough to pay.

Both loops are free of branches that depend on the data: a mispredicted branch costs more than
a whole symbol. The word to take is loaded whether it is taken or not. Neither can leave its
arrays: a decoder step runs unchecked only while a word is there for each lane, and an encoder
writes at most one word a symbol.

A kernel is compiled for one signature at its first use, and cached on disk where that works.

Example:

>>> import numpy as np
>>> from flyweight.coding import rans_kernels  # doctest: +SKIP
>>> rans_kernels.count_symbols(np.array([0, 2, 2], dtype=np.uint16), 3)  # doctest: +SKIP
array([1, 0, 2])

Sources: Giesen 2014, "Interleaved entropy coders"; Alverson 1991 (division by an invariant
integer as a multiplication).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numba  # type: ignore[import-untyped, import-not-found, unused-ignore]
import numpy as np
from numpy.typing import NDArray

__all__ = ["count_symbols", "decode_lanes", "encode_lanes"]

_Words = NDArray[np.uint16]
_U = np.uint64
_I = np.int64


def decode_lanes(
    words: _Words, slots: NDArray[np.uint64], bits: int, states: NDArray[np.uint32], out: _Words
) -> int:
    """Decode ``out.size`` symbols into ``out``; return how many words were taken.

    Arguments:
        words: all words of the chunk, shape (W,).
        slots: frequency | symbol << 16 | (slot - cumulative frequency) << 32 of each slot,
            shape (2**bits,).
        bits: probability bits, 9 to 16.
        states: one a lane, shape (lanes,); updated.
        out: shape (count,); filled.
    """
    return int(_compiled(_decode_lanes)(words, slots, bits, states, out))


def encode_lanes(
    symbols: _Words,
    entries: NDArray[np.uint64],
    bits: int,
    states: NDArray[np.uint32],
    words: _Words,
) -> int:
    """Encode ``symbols``, last to first, into the end of ``words``; return where they begin.

    Arguments:
        symbols: shape (count,), each below ``entries.size / 2``.
        entries: for each symbol ceil(2**(32 + bits) / frequency), and then cumulative
            frequency | (2**bits - frequency) << 32; shape (2 * alphabet,).
        bits: probability bits, 9 to 16.
        states: one a lane, shape (lanes,); updated.
        words: shape (count + 1,).
    """
    return int(_compiled(_encode_lanes)(symbols, entries, bits, states, words))


def count_symbols(symbols: _Words, alphabet: int) -> NDArray[np.int64]:
    """Return how often each symbol occurs, shape (alphabet,); all are below ``alphabet``."""
    counts = np.zeros((4, alphabet), dtype=np.int64)
    _compiled(_count_symbols)(symbols, counts)
    total: NDArray[np.int64] = counts.sum(axis=0)
    return total


def _decode_lanes(words: Any, slots: Any, bits: Any, states: Any, out: Any) -> Any:
    lanes = states.size
    mask = _U((1 << bits) - 1)
    shift = _U(bits)
    end = _U(words.size)
    at = _U(0)
    first = 0
    while first + lanes <= out.size and at + _U(lanes) <= end:
        for index in range(lanes):
            lane = _U(index)
            state = _U(states[lane])
            slot = slots[state & mask]
            state = (slot & _U(0xFFFF)) * (state >> shift) + (slot >> _U(32))
            out[_U(first) + lane] = slot >> _U(16)
            low = _U((_I(state) - _I(65536)) >> _I(63))  # all ones where a word is taken
            states[lane] = (state << (low & _U(16))) | (_U(words[at]) & low)
            at -= low
        first += lanes
    for index in range(first, out.size):
        lane = _U(index % lanes)
        state = _U(states[lane])
        slot = slots[state & mask]
        state = (slot & _U(0xFFFF)) * (state >> shift) + (slot >> _U(32))
        out[_U(index)] = slot >> _U(16)
        if state < _U(65536) and at < end:
            state = (state << _U(16)) | _U(words[at])
            at += _U(1)
        states[lane] = state
    return _I(at)


def _encode_lanes(symbols: Any, entries: Any, bits: Any, states: Any, words: Any) -> Any:
    lanes = states.size
    shift = _U(bits)
    room = _U(32 - bits)
    quotient = _U(32 + bits)
    at = _U(words.size - 1)
    first = symbols.size // lanes * lanes
    width = symbols.size - first
    while True:
        for index in range(width):
            lane = _U(width - 1 - index)
            entry = _U(symbols[_U(first) + lane]) * _U(2)
            reciprocal = entries[entry]
            packed = entries[entry + _U(1)]
            rest = packed >> _U(32)
            state = _U(states[lane])
            full = ((state >> room) + rest) >> shift  # 1 where a word is given, else 0
            words[at] = state
            at -= full
            state = state >> (full << _U(4))
            states[lane] = (
                state + (packed & _U(0xFFFFFFFF)) + ((state * reciprocal) >> quotient) * rest
            )
        if first == 0:
            return _I(at + _U(1))
        first -= lanes
        width = lanes


def _count_symbols(symbols: Any, counts: Any) -> None:
    whole = symbols.size // 4 * 4
    for index in range(0, whole, 4):
        at = _U(index)
        counts[_U(0), symbols[at]] += 1
        counts[_U(1), symbols[at + _U(1)]] += 1
        counts[_U(2), symbols[at + _U(2)]] += 1
        counts[_U(3), symbols[at + _U(3)]] += 1
    for index in range(whole, symbols.size):
        counts[_U(0), symbols[_U(index)]] += 1


_SIGNATURES = {
    _decode_lanes: "int64(uint16[::1], uint64[::1], int64, uint32[::1], uint16[::1])",
    _encode_lanes: "int64(uint16[::1], uint64[::1], int64, uint32[::1], uint16[::1])",
    _count_symbols: "void(uint16[::1], int64[:, ::1])",
}


@lru_cache
def _compiled(kernel: Callable[..., Any]) -> Callable[..., Any]:
    compiled: Callable[..., Any]
    try:
        compiled = numba.njit(_SIGNATURES[kernel], nogil=True, cache=True)(kernel)
    except Exception:  # no folder to cache in, or a damaged cache: neither is worth failing for
        compiled = numba.njit(_SIGNATURES[kernel], nogil=True)(kernel)
    return compiled
