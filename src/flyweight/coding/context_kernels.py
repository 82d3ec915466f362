"""The inner loops of `context`, compiled by Numba; imported only when they are wanted.

The same integers come out as from the plain loops in `context`. Numba checks no bounds, so
every index here is bounded: states by the numbers of contexts and nodes, reads and writes by
the lengths of the arrays. Coder state stays in local variables and tables come as arguments.
"""

# mypy: ignore-errors
# ruff: noqa: ANN001, ANN202
# Numba infers the types of these loops itself.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

__all__ = ["decode_chunk", "encode_chunk", "sample_energies"]

# As in `context`; frozen into the cache, so they must not change with the same loops.
_KEPT = 992
_SIGN = 993
_UNSEEN = (1 << 53) | (1 << 31)  # both estimates one half, nothing counted


@njit(nogil=True)
def _chance(word):
    return min(max(((word >> 32) + ((word >> 10) & 0x3FFFFF)) >> 7, 96), 65440)


@njit(nogil=True)
def _opened(parent):
    return (parent & ~1023) | min(parent & 1023, 4)


@njit(nogil=True)
def _adapted(word, bit, slow_rate, fast_rate):
    fast = (word >> 10) & 0x3FFFFF
    slow = word >> 32
    target = bit << 22
    slow += ((target - slow) * slow_rate) >> 16
    fast += ((target - fast) * fast_rate) >> 16
    return (slow << 32) | (fast << 10) | min((word & 1023) + 1, 1023)


@njit(nogil=True)
def _moved(energy, scaled, rate):
    return energy + (((scaled - energy) * rate) >> 16)


@njit(nogil=True)
def _spatial_context(guess, shift):
    steep = abs(guess) >> shift
    level = np.int64(steep > 0) + np.int64(steep > 4) + np.int64(steep > 9) + np.int64(steep > 16)
    return 5 + level if guess > 0 else 5 - level


def _encode_chunk(
    values, paths, starts, has_zeros, height, width, shift, thresholds,
    slow_rates, fast_rates, energy_rates, states, columns, out,
):  # fmt: skip
    """Fill ``out``; return low end and size of the interval left, and the words written.

    ``paths`` holds the decisions of every small value, those of value v from
    ``starts[v + small]`` on, and has room behind them for those of a large one. -1 words
    say that ``out`` is too short.
    """
    t1, t2, t3, t4, t5, t6, t7 = (
        thresholds[0], thresholds[1], thresholds[2], thresholds[3], thresholds[4], thresholds[5],
        thresholds[6],
    )  # fmt: skip
    small = (starts.size - 2) // 2
    room = starts[starts.size - 1]
    low, size, at = np.int64(0), np.int64(1 << 48), np.int64(0)
    x, y, row, late = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    for place in range(values.size):
        if at + 40 > out.size:
            return low, size, np.int64(-1)
        value = np.int64(values[place])
        magnitude = abs(value)
        if height > 0:
            guess = np.int64(0)
            if x > 0:
                guess += 2 * np.int64(values[np.uint64(place - 1)])
            if y > 0:
                guess += 2 * np.int64(values[np.uint64(place - width)])
                if x > 0:
                    guess -= np.int64(values[np.uint64(place - width - 1)])
            context = _spatial_context(guess, shift)
        else:
            column = columns[np.uint64(x)]
            energy = (row + column) >> 8
            context = (
                np.int64(energy > t1) + np.int64(energy > t2) + np.int64(energy > t3)
                + np.int64(energy > t4) + np.int64(energy > t5) + np.int64(energy > t6)
                + np.int64(energy > t7) + 1
            )  # fmt: skip
            scaled = min(magnitude, 65535) << 16
            row = _moved(row, late, energy_rates[np.uint64(min(x, 128))])
            late = scaled
            columns[np.uint64(x)] = _moved(column, scaled, energy_rates[np.uint64(min(y + 1, 128))])
        x += 1
        if x == width:
            x = np.int64(0)
            y += 1
            if y == height:
                y = np.int64(0)
        base = context << 11
        group = np.int64(0)
        if magnitude <= small:
            begin = starts[np.uint64(value + small)]
            end = starts[np.uint64(value + small + 1)]
        else:
            begin = room
            end = room
            if has_zeros:
                paths[np.uint64(end)] = (_KEPT << 1) | 1
                end += 1
            negative = np.int64(value < 0)
            paths[np.uint64(end)] = (_SIGN << 1) | negative
            end += 1
            first = negative << 10
            while (magnitude + 1) >> (group + 2):
                paths[np.uint64(end)] = (first << 1) | 1
                end += 1
                group += 1
                first += 32
            if group < 30:
                paths[np.uint64(end)] = first << 1
                end += 1
            for left in range(group, max(group - 5, -1), -1):
                bits = (magnitude + 1) >> left
                paths[np.uint64(end)] = ((first + (bits >> 1)) << 1) | (bits & 1)
                end += 1
        for index in range(begin, end):
            decision = paths[np.uint64(index)]
            node = decision >> 1
            bit = decision & 1
            state = np.uint64(base + node)
            word = states[state]
            if word & 1023 < 32:
                parent = states[np.uint64(node)]
                parent = parent if parent != 0 else _UNSEEN
                word = word if word != 0 else _opened(parent)
                count = np.uint64(parent & 1023)
                states[np.uint64(node)] = _adapted(
                    parent, bit, slow_rates[count], fast_rates[count]
                )
            bound = (size >> 16) * _chance(word)
            low += 0 if bit else bound
            size = bound if bit else size - bound
            count = np.uint64(word & 1023)
            states[state] = _adapted(word, bit, slow_rates[count], fast_rates[count])
            if size < 1 << 32:
                if low >> 48:
                    back = at - 1
                    while back > 0 and out[back] == 0xFFFF:
                        out[back] = 0
                        back -= 1
                    if back >= 0:
                        out[back] += 1
                out[np.uint64(at)] = (low >> 32) & 0xFFFF
                at += 1
                low = (low & 0xFFFFFFFF) << 16
                size <<= 16
        for left in range(group - 5, -1, -1):
            bound = (size >> 16) << 15
            if ((magnitude + 1) >> left) & 1:
                size = bound
            else:
                low += bound
                size -= bound
            if size < 1 << 32:
                if low >> 48:
                    back = at - 1
                    while back > 0 and out[back] == 0xFFFF:
                        out[back] = 0
                        back -= 1
                    if back >= 0:
                        out[back] += 1
                out[np.uint64(at)] = (low >> 32) & 0xFFFF
                at += 1
                low = (low & 0xFFFFFFFF) << 16
                size <<= 16
    return low, size, at


def _decode_chunk(
    words, tree, has_zeros, height, width, shift, thresholds,
    slow_rates, fast_rates, energy_rates, states, columns, values,
):  # fmt: skip
    """Fill ``values``; return offset in the interval left, its size, and the words read.

    ``tree[2 * node + bit]`` is the node after a decision, or below zero a leaf. -1 words say
    that there are too few, -2 that a value is too large.
    """
    t1, t2, t3, t4, t5, t6, t7 = (
        thresholds[0], thresholds[1], thresholds[2], thresholds[3], thresholds[4], thresholds[5],
        thresholds[6],
    )  # fmt: skip
    size, offset, at = np.int64(1 << 48), np.int64(0), np.int64(3)
    for index in range(3):
        offset <<= 16
        if index < words.size:
            offset |= np.int64(words[index])
    x, y, row, late = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    for place in range(values.size):
        if at - 3 > words.size:
            return offset, size, np.int64(-1)
        column = np.int64(0)
        if height > 0:
            guess = np.int64(0)
            if x > 0:
                guess += 2 * np.int64(values[np.uint64(place - 1)])
            if y > 0:
                guess += 2 * np.int64(values[np.uint64(place - width)])
                if x > 0:
                    guess -= np.int64(values[np.uint64(place - width - 1)])
            context = _spatial_context(guess, shift)
        else:
            column = columns[np.uint64(x)]
            energy = (row + column) >> 8
            context = (
                np.int64(energy > t1) + np.int64(energy > t2) + np.int64(energy > t3)
                + np.int64(energy > t4) + np.int64(energy > t5) + np.int64(energy > t6)
                + np.int64(energy > t7) + 1
            )  # fmt: skip
        base = context << 11
        node = np.int64(_KEPT if has_zeros else _SIGN)
        while node >= 0:
            state = np.uint64(base + node)
            word = states[state]
            if word == 0:
                parent = states[np.uint64(node)]
                word = _opened(parent if parent != 0 else _UNSEEN)
            bound = (size >> 16) * _chance(word)
            bit = np.int64(offset < bound)
            offset -= 0 if bit else bound
            size = bound if bit else size - bound
            count = np.uint64(word & 1023)
            states[state] = _adapted(word, bit, slow_rates[count], fast_rates[count])
            if word & 1023 < 32:
                parent = states[np.uint64(node)]
                parent = parent if parent != 0 else _UNSEEN
                count = np.uint64(parent & 1023)
                states[np.uint64(node)] = _adapted(
                    parent, bit, slow_rates[count], fast_rates[count]
                )
            if size < 1 << 32:
                size <<= 16
                offset <<= 16
                if at < words.size:
                    offset |= np.int64(words[np.uint64(at)])
                at += 1
            node = np.int64(tree[np.uint64(2 * node + bit)])
        leaf = -1 - node
        value = (leaf >> 6) - 1
        for _ in range((leaf >> 1) & 31):
            bound = (size >> 16) << 15
            bit = np.int64(offset < bound)
            offset -= 0 if bit else bound
            size = bound if bit else size - bound
            if size < 1 << 32:
                size <<= 16
                offset <<= 16
                if at < words.size:
                    offset |= np.int64(words[np.uint64(at)])
                at += 1
            value = 2 * value + 1 + bit
        if value > 0x7FFFFFFF + (leaf & 1):
            return offset, size, np.int64(-2)
        values[np.uint64(place)] = -value if leaf & 1 else value
        if height <= 0:
            scaled = min(value, 65535) << 16
            row = _moved(row, late, energy_rates[np.uint64(min(x, 128))])
            late = scaled
            columns[np.uint64(x)] = _moved(column, scaled, energy_rates[np.uint64(min(y + 1, 128))])
        x += 1
        if x == width:
            x = np.int64(0)
            y += 1
            if y == height:
                y = np.int64(0)
    return offset, size, at


def _sample_energies(values, width, step, energy_rates, columns, out):
    """Fill ``out`` with the energy before every ``step``-th value."""
    x, y, row, late = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    for place in range(values.size):
        column = columns[np.uint64(x)]
        if place % step == 0:
            out[np.uint64(place // step)] = (row + column) >> 8
        scaled = min(abs(np.int64(values[place])), 65535) << 16
        row = _moved(row, late, energy_rates[np.uint64(min(x, 128))])
        late = scaled
        columns[np.uint64(x)] = _moved(column, scaled, energy_rates[np.uint64(min(y + 1, 128))])
        x += 1
        if x == width:
            x = np.int64(0)
            y += 1


def _compiled(loop: Callable[..., Any]) -> Callable[..., Any]:
    """Compile with a cache on disk, and without one where the cache folder cannot be used."""
    plain = njit(nogil=True)(loop)
    try:
        kept = njit(nogil=True, cache=True)(loop)
    except RuntimeError:  # Numba found no folder to write to
        return plain  # type: ignore[no-any-return]

    usable = [True]

    def run(*arguments: Any) -> Any:
        if usable[0]:
            try:
                return kept(*arguments)
            except Exception:  # the loops raise nothing: the cache could not be read or written
                usable[0] = False
        return plain(*arguments)

    return run


encode_chunk = _compiled(_encode_chunk)
decode_chunk = _compiled(_decode_chunk)
sample_energies = _compiled(_sample_energies)
