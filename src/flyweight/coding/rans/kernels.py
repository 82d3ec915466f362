"""Loops of rANS compiled by Numba; imported for long streams.

Both loops are free of branches that depend on the data: a mispredicted branch costs more than
a whole symbol. The word to take is loaded whether it is taken or not. Neither can leave its
arrays: a decoder step runs unchecked only while a word is there for each lane, and an encoder
writes at most one word a symbol. Steps of eight lanes are vector code where that can be had;
the other loops do what is left, or all.

A kernel is compiled for one signature at its first use, and cached on disk where that works.

Example:

>>> import numpy as np
>>> from flyweight.coding.rans import kernels  # doctest: +SKIP
>>> kernels.count_symbols(np.array([0, 2, 2], dtype=np.uint16), 3)  # doctest: +SKIP
array([1, 0, 2])

Sources: Giesen 2014, "Interleaved entropy coders"; Alverson 1991 (division by an invariant
integer as a multiplication).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flyweight.coding.numba_compiler import compiled
from flyweight.coding.rans import vectors

__all__ = ["count_symbols", "decode_lanes", "encode_lanes"]

_Words = NDArray[np.uint16]
_U = np.uint64
_I = np.int64

_DECODE = "int64(uint16[::1], uint64[::1], int64, uint32[::1], uint16[::1], int64, int64)"
_ENCODE = "int64(uint16[::1], uint64[::1], int64, uint32[::1], uint16[::1], int64)"
_COUNT = "void(uint16[::1], int64[:, ::1])"


def decode_lanes(
    words: _Words, slots: NDArray[np.uint64], bits: int, states: NDArray[np.uint32], out: _Words
) -> int:
    """Decode ``out.size`` symbols into ``out``; return how many words were taken.

    Args:
        words: all words of the chunk, shape (W,).
        slots: frequency | symbol << 16 | (slot - cumulative frequency) << 32 of each slot,
            shape (2**bits,).
        bits: probability bits, 9 to 16.
        states: one a lane, shape (lanes,); updated.
        out: shape (count,); filled.
    """
    first, at = vectors.decode_steps(words, slots, states, out)
    return int(compiled(_decode_lanes, _DECODE)(words, slots, bits, states, out, first, at))


def encode_lanes(
    symbols: _Words, entries: NDArray[np.uint64], bits: int, states: NDArray[np.uint32]
) -> _Words:
    """Encode ``symbols``, last to first; return the words.

    Args:
        symbols: shape (count,), each below ``entries.size / 2``.
        entries: for each symbol ceil(2**(32 + bits) / frequency), and then cumulative
            frequency | (2**bits - frequency) << 32; shape (2 * alphabet,).
        bits: probability bits, 9 to 16.
        states: one a lane, shape (lanes,); updated.
    """
    words = np.empty(symbols.size + vectors.LANES, dtype=np.uint16)
    stop = vectors.whole_steps(symbols.size, bits, states.size)
    at = compiled(_encode_lanes, _ENCODE)(symbols, entries, bits, states, words, stop)
    if stop:
        at = vectors.encode_steps(symbols[:stop], entries, states, words[:at])
    return words[at:]


def count_symbols(symbols: _Words, alphabet: int) -> NDArray[np.int64]:
    """Return how often each symbol occurs, shape (alphabet,); all are below ``alphabet``."""
    counts = np.zeros((4, alphabet), dtype=np.int64)
    compiled(_count_symbols, _COUNT)(symbols, counts)
    total: NDArray[np.int64] = counts.sum(axis=0)
    return total


def _decode_lanes(
    words: Any, slots: Any, bits: Any, states: Any, out: Any, first: Any, taken: Any
) -> Any:
    lanes = states.size
    mask = _U((1 << bits) - 1)
    shift = _U(bits)
    end = _U(words.size)
    at = _U(taken)
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


def _encode_lanes(symbols: Any, entries: Any, bits: Any, states: Any, words: Any, stop: Any) -> Any:
    """Encode symbols[stop:], where ``stop`` is a multiple of the lanes."""
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
        if first <= stop:
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
