"""Loops of rANS without a compiler: NumPy for many lanes, Python integers otherwise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flyweight.coding.rans.table import LOW, Model

__all__ = ["decode_lanes", "decoder_slots", "encode_lanes", "encoder_entries"]

_LANES_FOR_NUMPY = 32  # with fewer, plain integers are faster


def encoder_entries(model: Model, alphabet: int) -> NDArray[np.uint64]:
    """Return what `kernels.encode_lanes` looks up, shape (2 * alphabet,)."""
    entries = np.zeros((alphabet, 2), dtype=np.uint64)
    one = 1 << (32 + model.bits)
    entries[model.used, 0] = (one + model.frequency - 1) // model.frequency
    entries[model.used, 1] = (1 << model.bits) - model.frequency << 32 | model.cumulative
    return entries.ravel()


def decoder_slots(model: Model) -> NDArray[np.uint64]:
    """Return what `kernels.decode_lanes` looks up, shape (2**bits,)."""
    start = model.used << 16 | model.frequency
    within = np.arange(1 << model.bits) - np.repeat(model.cumulative, model.frequency)
    slots: NDArray[np.uint64] = (np.repeat(start, model.frequency) | within << 32).astype(np.uint64)
    return slots


def encode_lanes(
    symbols: NDArray[np.uint16],
    entries: NDArray[np.uint64],
    bits: int,
    states: NDArray[np.uint32],
) -> NDArray[np.uint16]:
    """Encode as `kernels.encode_lanes` does; return the words."""
    lanes = states.size
    cumulative = entries[1::2].astype(np.uint32)
    frequency = np.uint32(1 << bits) - (entries[1::2] >> np.uint64(32)).astype(np.uint32)
    if lanes < _LANES_FOR_NUMPY:
        return _encode_one_by_one(symbols, frequency.tolist(), cumulative.tolist(), bits, states)
    steps = range(0, symbols.size, lanes)
    given = []
    for first in reversed(steps):
        step = symbols[first : first + lanes]
        state = states[: step.size]
        share = frequency[step]
        full = (state >> np.uint32(32 - bits) >= share).nonzero()[0]
        given.append(state[full].astype(np.uint16))  # the lower half
        state[full] >>= np.uint32(16)
        quotient, rest = np.divmod(state, share)
        state[:] = (quotient << np.uint32(bits)) + rest + cumulative[step]
    return np.concatenate(given[::-1])


def _encode_one_by_one(
    symbols: NDArray[np.uint16],
    frequency: list[int],
    cumulative: list[int],
    bits: int,
    states: NDArray[np.uint32],
) -> NDArray[np.uint16]:
    lanes = states.tolist()
    last = len(lanes) - 1
    room = 32 - bits
    given = []
    for place, symbol in zip(range(symbols.size - 1, -1, -1), symbols[::-1].tolist(), strict=True):
        state = lanes[place & last]
        share = frequency[symbol]
        if state >> room >= share:
            given.append(state & 0xFFFF)
            state >>= 16
        quotient, rest = divmod(state, share)
        lanes[place & last] = (quotient << bits) + rest + cumulative[symbol]
    states[:] = lanes
    return np.array(given[::-1], dtype=np.uint16)


def decode_lanes(
    words: NDArray[np.uint16],
    slots: NDArray[np.uint64],
    bits: int,
    states: NDArray[np.uint32],
    out: NDArray[np.uint16],
) -> int:
    """Decode as `kernels.decode_lanes` does; return how many words were taken."""
    lanes = states.size
    frequency = (slots & np.uint64(0xFFFF)).astype(np.uint32)
    within = (slots >> np.uint64(32)).astype(np.uint32)
    symbol_of = (slots >> np.uint64(16)).astype(np.uint16)
    if lanes < _LANES_FOR_NUMPY:
        visited, taken = _decode_one_by_one(
            words.tolist(), frequency.tolist(), within.tolist(), bits, states, out.size
        )
        out[:] = symbol_of[visited]
        return taken
    mask, shift, half = np.uint32((1 << bits) - 1), np.uint32(bits), np.uint32(16)
    wide = words.astype(np.uint32)
    taken = 0
    for first in range(0, out.size, lanes):
        state = states[: out.size - first]
        slot = state & mask
        symbol_of.take(slot, out=out[first : first + lanes], mode="clip")
        state >>= shift
        state *= frequency.take(slot)
        state += within.take(slot)
        low = (state < LOW).nonzero()[0]
        if low.size:
            piece = wide[taken : taken + low.size]
            if piece.size < low.size:
                break  # out of words: some state stays low, and the caller refuses it
            state[low] = state[low] << half | piece
            taken += low.size
    return taken


def _decode_one_by_one(
    words: list[int],
    frequency: list[int],
    within: list[int],
    bits: int,
    states: NDArray[np.uint32],
    count: int,
) -> tuple[list[int], int]:
    lanes = states.tolist()
    last = len(lanes) - 1
    mask = (1 << bits) - 1
    end = len(words)
    taken = 0
    visited = []
    for place in range(count):
        state = lanes[place & last]
        slot = state & mask
        visited.append(slot)
        state = frequency[slot] * (state >> bits) + within[slot]
        if state < LOW and taken < end:
            state = state << 16 | words[taken]
            taken += 1
        lanes[place & last] = state
    states[:] = lanes
    return visited, taken
