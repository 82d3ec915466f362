"""Loops of the context coder compiled by Numba; imported on demand.

The same integers come out as from the loops in `plain`. Numba checks no bounds, so every index
here is bounded: states by the numbers of contexts and nodes, reads and writes by the lengths of
the arrays. Coder state stays in local variables and tables come as arguments; what is shared is
in functions of numbers only, since arrays passed on make the loops several times slower.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numba import njit  # type: ignore[import-untyped, import-not-found, unused-ignore]
from numpy.typing import NDArray

from flyweight.coding.context import model
from flyweight.coding.numba_compiler import compiled

__all__ = ["decode_chunk", "encode_chunk", "sampled_energies"]

_Loop = TypeVar("_Loop", bound=Callable[..., Any])
_I: Any = np.int64
_U: Any = np.uint64  # of an index: Numba then does not look for negative ones

# As in `model`; frozen into the cache, so they must not change with the same loops.
_KEPT = 992
_SIGN = 993
_UNSEEN = (1 << 53) | (1 << 31)  # both estimates one half, nothing counted
_BOUNDS = 8
_PADDING = 40  # words: more than one value can take
_NEVER = (1 << 62) - 1  # no guess is above it


_COMMON = "boolean, int64, int64" + ", int64[::1]" * 6  # has_zeros, height, width, tables
_ENCODE = (
    f"Tuple((int64, int64, int64))(int32[::1], int32[::1], int64[::1], {_COMMON}, uint16[::1])"
)
_DECODE = f"Tuple((int64, int64, int64))(uint16[::1], int32[::1], {_COMMON}, int32[::1])"
_SAMPLE = "void(int32[::1], int64, int64, int64[::1], int64[::1], int64[::1])"


def _helper(function: _Loop) -> _Loop:
    compiled: Any = njit(nogil=True)(function)
    return compiled  # type: ignore[no-any-return]


@_helper
def _chance(word: int) -> int:
    """Return the estimate that a state makes of a 1, of 65,536."""
    return min(max(((word >> 32) + ((word >> 10) & 0x3FFFFF)) >> 7, 96), 65440)


@_helper
def _opened(parent: int) -> int:
    return (parent & ~1023) | min(parent & 1023, 4)


@_helper
def _taught(word: int, bit: int, slow_rate: int, fast_rate: int) -> int:
    fast = (word >> 10) & 0x3FFFFF
    slow = word >> 32
    target = bit << 22
    if word & 1023 == 1023:  # the rates are the least there are, and powers of two
        slow += (target - slow) >> 10
        fast += (target - fast) >> 7
        return (slow << 32) | (fast << 10) | 1023
    slow += ((target - slow) * slow_rate) >> 16
    fast += ((target - fast) * fast_rate) >> 16
    return (slow << 32) | (fast << 10) | ((word & 1023) + 1)


@_helper
def _moved(energy: int, scaled: int, rate: int) -> int:
    return energy + (((scaled - energy) * rate) >> 16)


@_helper
def _carry(words: Any, number: int) -> None:
    """Add one to the number that the first words make up."""
    at = number - 1
    while at > 0 and words[at] == 0xFFFF:
        words[at] = 0
        at -= 1
    if at >= 0:
        words[at] += 1


def _encode(
    values: Any,
    paths: Any,
    starts: Any,
    has_zeros: bool,
    height: int,
    width: int,
    bounds: Any,
    slow_rates: Any,
    fast_rates: Any,
    energy_rates: Any,
    states: Any,
    columns: Any,
    out: Any,
) -> tuple[Any, Any, Any]:
    """Fill ``out``; return low end and size of the interval left, and the words written.

    ``paths`` holds the decisions of every small value, those of value v from
    ``starts[v + small]`` on, and has room behind them for those of a large one. -1 words
    say that ``out`` is too short.
    """
    b1, b2, b3, b4 = bounds[0], bounds[1], bounds[2], bounds[3]
    b5, b6, b7, b8 = bounds[4], bounds[5], bounds[6], bounds[7]
    small = (starts.size - 2) // 2
    room = starts[starts.size - 1]
    low, size, at = _I(0), _I(1 << 48), _I(0)
    x, y, row, late = _I(0), _I(0), _I(0), _I(0)
    for place in range(values.size):
        if at + _PADDING > out.size:
            return low, size, _I(-1)
        value = _I(values[place])
        magnitude = abs(value)
        guess = _I(0)
        if height > 0:
            if x > 0:
                guess += 2 * _I(values[_U(place - 1)])
            if y > 0:
                guess += 2 * _I(values[_U(place - width)])
                if x > 0:
                    guess -= _I(values[_U(place - width - 1)])
        else:
            column = _I(0)
            if y > 0:
                column = columns[_U(x)]
            guess = (row + column) >> 8
            scaled = min(magnitude, 65535) << 16
            row = _moved(row, late, energy_rates[_U(min(x, 128))])
            late = scaled
            if place + width < values.size:  # else no later value looks at this column
                rate = energy_rates[_U(min(y + 1, 128))]
                columns[_U(x)] = _moved(column, scaled, rate)
        context = (
            _I(guess > b1) + _I(guess > b2) + _I(guess > b3)
            + _I(guess > b4) + _I(guess > b5) + _I(guess > b6)
            + _I(guess > b7) + _I(guess > b8) + 1
        )  # fmt: skip
        x += 1
        if x == width:
            x = _I(0)
            y += 1
            if y == height:
                y = _I(0)
        base = context << 11
        group = _I(0)
        if magnitude <= small:
            begin = starts[_U(value + small)]
            end = starts[_U(value + small + 1)]
        else:
            begin = room
            end = room
            if has_zeros:
                paths[_U(end)] = (_KEPT << 1) | 1
                end += 1
            negative = _I(value < 0)
            paths[_U(end)] = (_SIGN << 1) | negative
            end += 1
            first = negative << 10
            while (magnitude + 1) >> (group + 2):
                paths[_U(end)] = (first << 1) | 1
                end += 1
                group += 1
                first += 32
            if group < 30:
                paths[_U(end)] = first << 1
                end += 1
            for left in range(group, max(group - 5, -1), -1):
                bits = (magnitude + 1) >> left
                paths[_U(end)] = ((first + (bits >> 1)) << 1) | (bits & 1)
                end += 1
        for index in range(begin, end):
            decision = _I(paths[_U(index)])
            node = _U(decision >> 1)
            bit = decision & 1
            state = _U(base + (decision >> 1))
            word = states[state]
            if word & 1023 < 32:
                parent = states[node]
                word = word if word != 0 else _opened(parent)
                count = _U(parent & 1023)
                states[node] = _taught(parent, bit, slow_rates[count], fast_rates[count])
            bound = (size >> 16) * _chance(word)
            low += 0 if bit else bound
            size = bound if bit else size - bound
            count = _U(word & 1023)
            states[state] = _taught(word, bit, slow_rates[count], fast_rates[count])
            if size < 1 << 32:
                if low >> 48:
                    _carry(out, at)
                out[_U(at)] = (low >> 32) & 0xFFFF
                at += 1
                low = (low & 0xFFFFFFFF) << 16
                size <<= 16
        for left in range(group - 5, -1, -1):
            bit = ((magnitude + 1) >> left) & 1
            bound = (size >> 16) << 15
            low += 0 if bit else bound
            size = bound if bit else size - bound
            if size < 1 << 32:
                if low >> 48:
                    _carry(out, at)
                out[_U(at)] = (low >> 32) & 0xFFFF
                at += 1
                low = (low & 0xFFFFFFFF) << 16
                size <<= 16
    return low, size, at


def _decode(
    words: Any,
    tree: Any,
    has_zeros: bool,
    height: int,
    width: int,
    bounds: Any,
    slow_rates: Any,
    fast_rates: Any,
    energy_rates: Any,
    states: Any,
    columns: Any,
    values: Any,
) -> tuple[Any, Any, Any]:
    """Fill ``values``; return offset in the interval left, its size, and the words read.

    ``words`` ends in so many zeros that no value can take more. ``tree[2 * node + bit]`` is the
    node after a decision, or below zero a leaf. -1 words say that there are too few, -2 that a
    value is too large.
    """
    b1, b2, b3, b4 = bounds[0], bounds[1], bounds[2], bounds[3]
    b5, b6, b7, b8 = bounds[4], bounds[5], bounds[6], bounds[7]
    end = words.size - _PADDING
    size, offset, at = _I(1 << 48), _I(0), _I(3)
    for index in range(3):
        offset = (offset << 16) | _I(words[index])
    x, y, row, late = _I(0), _I(0), _I(0), _I(0)
    for place in range(values.size):
        if at - 3 > end:
            return offset, size, _I(-1)
        column = _I(0)
        guess = _I(0)
        if height > 0:
            if x > 0:
                guess += 2 * _I(values[_U(place - 1)])
            if y > 0:
                guess += 2 * _I(values[_U(place - width)])
                if x > 0:
                    guess -= _I(values[_U(place - width - 1)])
        else:
            if y > 0:
                column = columns[_U(x)]
            guess = (row + column) >> 8
        context = (
            _I(guess > b1) + _I(guess > b2) + _I(guess > b3)
            + _I(guess > b4) + _I(guess > b5) + _I(guess > b6)
            + _I(guess > b7) + _I(guess > b8) + 1
        )  # fmt: skip
        base = context << 11
        node = _I(_SIGN)
        value = _I(0)
        if has_zeros:
            state = _U(base + _KEPT)
            word = states[state]
            if word & 1023 < 32:
                parent = states[_U(_KEPT)]
                word = word if word != 0 else _opened(parent)
                bit = _I(offset < (size >> 16) * _chance(word))
                count = _U(parent & 1023)
                states[_U(_KEPT)] = _taught(parent, bit, slow_rates[count], fast_rates[count])
            bound = (size >> 16) * _chance(word)
            count = _U(word & 1023)
            # A branch, not a choice: what follows a zero, as most are, need not wait for it.
            if offset >= bound:
                offset -= bound
                size -= bound
                states[state] = _taught(word, _I(0), slow_rates[count], fast_rates[count])
                node = _I(-1)
            else:
                size = bound
                states[state] = _taught(word, _I(1), slow_rates[count], fast_rates[count])
            if size < 1 << 32:
                size <<= 16
                offset = (offset << 16) | _I(words[_U(at)])
                at += 1
        told = node >= 0
        while node >= 0:
            state = _U(base + node)
            word = states[state]
            if word & 1023 < 32:
                parent = states[_U(node)]
                word = word if word != 0 else _opened(parent)
                bit = _I(offset < (size >> 16) * _chance(word))
                count = _U(parent & 1023)
                states[_U(node)] = _taught(parent, bit, slow_rates[count], fast_rates[count])
            bound = (size >> 16) * _chance(word)
            bit = _I(offset < bound)
            offset -= 0 if bit else bound
            size = bound if bit else size - bound
            count = _U(word & 1023)
            states[state] = _taught(word, bit, slow_rates[count], fast_rates[count])
            if size < 1 << 32:
                size <<= 16
                offset = (offset << 16) | _I(words[_U(at)])
                at += 1
            node = _I(tree[_U(2 * node + bit)])
        values[_U(place)] = 0
        if told:
            leaf = -1 - node
            value = (leaf >> 6) - 1
            for _ in range((leaf >> 1) & 31):
                bound = (size >> 16) << 15
                bit = _I(offset < bound)
                offset -= 0 if bit else bound
                size = bound if bit else size - bound
                if size < 1 << 32:
                    size <<= 16
                    offset = (offset << 16) | _I(words[_U(at)])
                    at += 1
                value = 2 * value + 1 + bit
            if value > 0x7FFFFFFF + (leaf & 1):
                return offset, size, _I(-2)
            values[_U(place)] = -value if leaf & 1 else value
        if height <= 0:
            scaled = min(value, 65535) << 16
            row = _moved(row, late, energy_rates[_U(min(x, 128))])
            late = scaled
            if place + width < values.size:  # else no later value looks at this column
                rate = energy_rates[_U(min(y + 1, 128))]
                columns[_U(x)] = _moved(column, scaled, rate)
        x += 1
        if x == width:
            x = _I(0)
            y += 1
            if y == height:
                y = _I(0)
    return offset, size, at


def _sample(values: Any, width: int, step: int, energy_rates: Any, columns: Any, out: Any) -> None:
    """Fill ``out`` with the energy before every ``step``-th value."""
    x, y, row, late = _I(0), _I(0), _I(0), _I(0)
    for place in range(values.size):
        column = columns[_U(x)]
        if place % step == 0:
            out[_U(place // step)] = (row + column) >> 8
        scaled = min(abs(_I(values[place])), 65535) << 16
        row = _moved(row, late, energy_rates[_U(min(x, 128))])
        late = scaled
        columns[_U(x)] = _moved(column, scaled, energy_rates[_U(min(y + 1, 128))])
        x += 1
        if x == width:
            x = _I(0)
            y += 1


def _tables(height: int, width: int, bounds: tuple[int, ...], size: int) -> tuple[Any, ...]:
    """Return what both loops take: bounds, rates, states and columns."""
    padded = np.full(_BOUNDS, _NEVER, dtype=np.int64)
    padded[: len(bounds)] = bounds
    states = np.zeros(model.CONTEXTS << 11, dtype=np.int64)
    states[: 1 << 11] = _UNSEEN
    columns = np.zeros(1 if height else min(width, size), dtype=np.int64)
    return padded, *model.rates(), model.energy_rates(), states, columns


def encode_chunk(
    values: NDArray[np.int32], has_zeros: bool, height: int, width: int, bounds: tuple[int, ...]
) -> tuple[NDArray[np.uint16], int, int]:
    """Return what `plain.encode_chunk` does."""
    paths, starts = model.paths(has_zeros)
    room = np.concatenate([paths, np.zeros(64, dtype=np.int32)])
    capacity = values.size // 2 + 1024
    loop = compiled(_encode, _ENCODE)
    while True:
        out = np.empty(capacity, dtype=np.uint16)
        tables = _tables(height, width, bounds, values.size)
        low, size, at = loop(values, room, starts, has_zeros, height, width, *tables, out)
        if at >= 0:
            return out[:at], low, size
        capacity *= 4


def decode_chunk(
    words: NDArray[np.uint16],
    values: NDArray[np.int32],
    has_zeros: bool,
    height: int,
    width: int,
    bounds: tuple[int, ...],
) -> tuple[int, int, int]:
    """Fill ``values``; return the rest of what `plain.decode_chunk` does."""
    tables = _tables(height, width, bounds, values.size)
    padded = np.concatenate([words, np.zeros(_PADDING, dtype=np.uint16)])
    loop = compiled(_decode, _DECODE)
    offset, size, at = loop(padded, model.tree(), has_zeros, height, width, *tables, values)
    return offset, size, at


def sampled_energies(values: NDArray[np.int32], width: int, step: int) -> NDArray[np.int64]:
    """Return what `plain.sampled_energies` does."""
    out = np.zeros(-(-values.size // step), dtype=np.int64)
    columns = np.zeros(min(width, values.size), dtype=np.int64)
    compiled(_sample, _SAMPLE)(values, width, step, model.energy_rates(), columns, out)
    return out
