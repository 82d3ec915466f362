"""Loops of the context coder in plain Python.

A small file is open before Numba has started. State stays in local variables, numbers in lists
and one state in one tuple, and the steps of the range coder are written out, for speed: a call
costs as much as a third of a decision.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Generator, Sequence
from functools import cache
from itertools import chain, repeat

import numpy as np
from numpy.typing import NDArray

from flyweight.coding.context.model import (
    CONTEXTS,
    IS_KEPT,
    SIGN,
    energy_rates,
    path,
    rates,
    tree,
)

__all__ = ["carry", "decode_chunk", "encode_chunk", "energies", "sampled_energies"]

Guesses = Generator[int, int, None]

_State = tuple[int, int, int]  # slow and fast estimate, and how many bits they have seen
_UNSEEN: _State = (1 << 21, 1 << 21, 0)


def _opened(parent: _State) -> _State:
    slow, fast, seen = parent
    return slow, fast, min(seen, 4)


def energies(width: int) -> Guesses:
    """Yield the mean magnitude that row and column expect of each value; takes in the value."""
    pace = energy_rates().tolist()
    columns = [0] * width
    row = late = y = 0
    while True:
        y = min(y + 1, 128)
        column_rate = pace[y]
        row_rates = chain(pace, repeat(pace[-1]))
        for x, (column, row_rate) in enumerate(zip(columns, row_rates, strict=False)):
            value = yield row + column >> 8
            scaled = min(abs(value), 65_535) << 16
            row += (late - row) * row_rate >> 16
            late = scaled
            columns[x] = column + ((scaled - column) * column_rate >> 16)


def _predictions(height: int, width: int) -> Guesses:
    """Yield twice what the neighbors in the kernel predict of each value; takes in the value."""
    while True:
        above = [0] * width
        for _ in range(height):
            left = corner = 0
            for x, up in enumerate(above):
                left = yield 2 * (left + up) - corner
                above[x] = left
                corner = up


def guesses(height: int, width: int) -> Guesses:
    """Yield what the context of each value follows from; takes in the value."""
    return _predictions(height, width) if height else energies(width)


def sampled_energies(values: Sequence[int], width: int, step: int) -> list[int]:
    """Return the energy before every ``step``-th value."""
    expected = energies(width)
    found = [next(expected)]
    found += [expected.send(value) for value in values[:-1]]
    return found[::step]


@cache
def _steps() -> list[tuple[int, int, int]]:
    """Return slow rate, fast rate and next count of each count."""
    slow, fast = rates().tolist()
    return list(zip(slow, fast, [*range(1, 1024), 1023], strict=True))


@cache
def _branches() -> tuple[list[int], list[int]]:
    """Return the node or leaf after a 0 and after a 1."""
    flat = tree().tolist()
    return flat[::2], flat[1::2]


def carry(words: list[int] | NDArray[np.uint16]) -> None:
    """Add one to the number that 16-bit words make up."""
    at = len(words) - 1
    while words[at] == 0xFFFF:
        words[at] = 0
        at -= 1
    words[at] += 1


def _shifted_out(words: list[int], low: int, size: int) -> tuple[int, int]:
    """Give a word; return low end and size of the interval after that."""
    if low >> 48:
        carry(words)
    words.append(low >> 32 & 0xFFFF)
    return (low & 0xFFFFFFFF) << 16, size << 16


def _taught(state: _State, bit: int) -> _State:
    slow, fast, seen = state
    slow_rate, fast_rate, seen = _steps()[seen]
    target = bit << 22
    slow += (target - slow) * slow_rate >> 16
    fast += (target - fast) * fast_rate >> 16
    return slow, fast, seen


def encode_chunk(
    values: Sequence[int], has_zeros: bool, height: int, width: int, thresholds: Sequence[int]
) -> tuple[list[int], int, int]:
    """Return the words of a chunk, and low end and size of the interval that is left."""
    expectations = guesses(height, width)
    steps = _steps()
    parents = [_UNSEEN] * 2048
    states: list[_State | None] = [None] * (CONTEXTS << 11)
    paths: dict[int, list[tuple[int, int]]] = {}
    words: list[int] = []
    low, size = 0, 1 << 48
    guess = next(expectations)
    for value in values:
        base = bisect_left(thresholds, guess) + 1 << 11
        if value not in paths:
            paths[value] = [(step >> 1, step & 1) for step in path(value, has_zeros)]
        for node, bit in paths[value]:
            slow, fast, seen = states[base + node] or _opened(parents[node])
            if seen < 32:
                parents[node] = _taught(parents[node], bit)
            chance = slow + fast >> 7
            if not 96 <= chance <= 65_440:
                chance = 96 if chance < 96 else 65_440
            bound = (size >> 16) * chance
            slow_rate, fast_rate, seen = steps[seen]
            if bit:
                size = bound
                slow += (0x400000 - slow) * slow_rate >> 16
                fast += (0x400000 - fast) * fast_rate >> 16
            else:
                low += bound
                size -= bound
                slow += -slow * slow_rate >> 16
                fast += -fast * fast_rate >> 16
            states[base + node] = slow, fast, seen
            if size < 0x100000000:
                low, size = _shifted_out(words, low, size)
        total = abs(value) + 1
        for left in range(total.bit_length() - 7, -1, -1):
            bound = (size >> 16) << 15
            if total >> left & 1:
                size = bound
            else:
                low += bound
                size -= bound
            if size < 0x100000000:
                low, size = _shifted_out(words, low, size)
        guess = expectations.send(value)
    return words, low, size


def decode_chunk(
    words: Sequence[int],
    count: int,
    has_zeros: bool,
    height: int,
    width: int,
    thresholds: Sequence[int],
) -> tuple[list[int], int, int, int]:
    """Return the values, the offset in the interval left, its size, and the words read.

    A negative number of words is an error: -1 for missing words, -2 for too large a value.
    """
    expectations = guesses(height, width)
    steps = _steps()
    after_zero, after_one = _branches()
    root = IS_KEPT if has_zeros else SIGN
    parents = [_UNSEEN] * 2048
    states: list[_State | None] = [None] * (CONTEXTS << 11)
    values: list[int] = []
    end = len(words)
    offset = 0
    for word in [*words[:3], 0, 0, 0][:3]:
        offset = offset << 16 | word
    size = 1 << 48
    at = 3
    guess = next(expectations)
    for _ in range(count):
        if at - 3 > end:
            return values, offset, size, -1
        base = bisect_left(thresholds, guess) + 1 << 11
        node = root
        while node >= 0:
            slow, fast, seen = states[base + node] or _opened(parents[node])
            chance = slow + fast >> 7
            if not 96 <= chance <= 65_440:
                chance = 96 if chance < 96 else 65_440
            bound = (size >> 16) * chance
            if seen < 32:
                parents[node] = _taught(parents[node], int(offset < bound))
            slow_rate, fast_rate, seen = steps[seen]
            if offset < bound:
                size = bound
                slow += (0x400000 - slow) * slow_rate >> 16
                fast += (0x400000 - fast) * fast_rate >> 16
                states[base + node] = slow, fast, seen
                node = after_one[node]
            else:
                offset -= bound
                size -= bound
                slow += -slow * slow_rate >> 16
                fast += -fast * fast_rate >> 16
                states[base + node] = slow, fast, seen
                node = after_zero[node]
            if size < 0x100000000:
                size <<= 16
                offset = offset << 16 | (words[at] if at < end else 0)
                at += 1
        leaf = -1 - node
        total = leaf >> 6
        for _ in range(leaf >> 1 & 31):
            bound = (size >> 16) << 15
            total <<= 1
            if offset < bound:
                total += 1
                size = bound
            else:
                offset -= bound
                size -= bound
            if size < 0x100000000:
                size <<= 16
                offset = offset << 16 | (words[at] if at < end else 0)
                at += 1
        if total - 1 > 0x7FFFFFFF + (leaf & 1):
            return values, offset, size, -2
        value = 1 - total if leaf & 1 else total - 1
        values.append(value)
        guess = expectations.send(value)
    return values, offset, size, at
