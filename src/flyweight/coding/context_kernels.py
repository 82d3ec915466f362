"""The inner loops of `context`, compiled by Numba; imported only when they are wanted.

The same integers come out as from the plain loops in `context`. Numba checks no bounds, so
every index here is bounded: states by the numbers of contexts and nodes, reads and writes by
the lengths of the arrays. Coder state stays in local variables and tables come as arguments.
"""

# mypy: disable-error-code="untyped-decorator, no-untyped-def, misc, import-untyped, unused-ignore"
# mypy: allow-untyped-defs, allow-untyped-calls, allow-any-unimported

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

__all__ = ["decode_chunk", "encode_chunk", "sample_energies"]

# Python numbers that never change; what can be tuned is in `context` and comes as arguments.
_HALF = 1 << 15
_UNSEEN = (1 << 53) | (1 << 31)  # both estimates one half, nothing counted


@njit(nogil=True, inline="always")
def _adapted(word, bit, slow_rates, fast_rates):  # noqa: ANN001, ANN202
    count = word & 1023
    fast = (word >> 10) & 0x3FFFFF
    slow = word >> 32
    target = bit << 22
    slow += ((target - slow) * slow_rates[count]) >> 16
    fast += ((target - fast) * fast_rates[count]) >> 16
    if count < 1023:
        count += 1
    return (slow << 32) | (fast << 10) | count


@njit(nogil=True, inline="always")
def _chance(word):  # noqa: ANN001, ANN202
    chance = ((word >> 32) + ((word >> 10) & 0x3FFFFF)) >> 7
    return min(max(chance, 96), 65440)


@njit(nogil=True, inline="always")
def _opened(word, parent):  # noqa: ANN001, ANN202
    if word == 0:
        word = parent if parent != 0 else _UNSEEN
        if word & 1023 > 4:
            word = (word & ~1023) | 4
    return word


@njit(nogil=True, inline="always")
def _teach_parent(states, parent, bit, slow_rates, fast_rates):  # noqa: ANN001, ANN202
    word = states[parent]
    if word == 0:
        word = _UNSEEN
    states[parent] = _adapted(word, bit, slow_rates, fast_rates)


@njit(nogil=True, inline="always")
def _put_word(low, at, out):  # noqa: ANN001, ANN202
    if low >> 48:
        back = at - 1
        while back > 0 and out[back] == 0xFFFF:
            out[back] = 0
            back -= 1
        if back >= 0:
            out[back] += 1
    out[at] = (low >> 32) & 0xFFFF


@njit(nogil=True, inline="always")
def _put(  # noqa: ANN202
    bit,
    base,
    node,
    low,
    size,
    at,
    out,
    states,
    slow_rates,
    fast_rates,  # noqa: ANN001
):
    word = _opened(states[base + node], states[node])
    bound = (size >> 16) * _chance(word)
    if bit:
        size = bound
    else:
        low += bound
        size -= bound
    states[base + node] = _adapted(word, bit, slow_rates, fast_rates)
    if word & 1023 < 32:
        _teach_parent(states, node, bit, slow_rates, fast_rates)
    if size < 1 << 32:
        _put_word(low, at, out)
        at += 1
        low = (low & 0xFFFFFFFF) << 16
        size <<= 16
    return low, size, at


@njit(nogil=True, inline="always")
def _bucket(guess, shift):  # noqa: ANN001, ANN202
    steep = abs(guess) >> shift
    level = np.int64(steep > 0) + np.int64(steep > 4) + np.int64(steep > 9) + np.int64(steep > 16)
    return 5 + level if guess > 0 else 5 - level


@njit(nogil=True, inline="always")
def _kernel_context(values, place, x, y, width, shift):  # noqa: ANN001, ANN202
    guess = np.int64(0)
    if x > 0:
        guess += 2 * np.int64(values[place - 1])
    if y > 0:
        guess += 2 * np.int64(values[place - width])
        if x > 0:
            guess -= np.int64(values[place - width - 1])
    return _bucket(guess, shift)


@njit(nogil=True, inline="always")
def _energy_context(energy, thresholds):  # noqa: ANN001, ANN202
    context = 1
    for threshold in thresholds:
        context += np.int64(energy > threshold)
    return context


def _encode_chunk(  # noqa: ANN202
    values,
    has_zeros,
    height,
    width,
    shift,
    thresholds,
    tables,
    states,
    columns,
    out,  # noqa: ANN001
):
    slow_rates, fast_rates, energy_rates = tables[0], tables[1], tables[2]
    low, size, at = np.int64(0), np.int64(1 << 48), np.int64(0)
    spatial = height > 0
    x, y = np.int64(0), np.int64(0)
    row = np.int64(0)
    for place in range(values.size):
        if at + 40 > out.size:
            return low, size, np.int64(-1)
        value = np.int64(values[place])
        if spatial:
            context = _kernel_context(values, place, x, y, width, shift)
        else:
            context = _energy_context((row + columns[x]) >> 8, thresholds)
        base = context << 11
        magnitude = abs(value)
        if has_zeros:
            low, size, at = _put(
                np.int64(value != 0), base, 992, low, size, at, out, states, slow_rates, fast_rates
            )
        if value != 0:
            negative = np.int64(value < 0)
            low, size, at = _put(
                negative, base, 993, low, size, at, out, states, slow_rates, fast_rates
            )
            first = negative << 10
            total = magnitude + 1
            group = np.int64(0)
            while total >> (group + 2):
                low, size, at = _put(
                    1, base, first + (group << 5), low, size, at, out, states, slow_rates,
                    fast_rates,
                )  # fmt: skip
                group += 1
            first += group << 5
            if group < 30:
                low, size, at = _put(
                    0, base, first, low, size, at, out, states, slow_rates, fast_rates
                )
            left = group
            branch = np.int64(1)
            while left >= 0 and branch < 32:
                bit = (total >> left) & 1
                low, size, at = _put(
                    bit, base, first + branch, low, size, at, out, states, slow_rates, fast_rates
                )
                branch = 2 * branch + bit
                left -= 1
            while left >= 0:
                bound = (size >> 16) * _HALF
                if (total >> left) & 1:
                    size = bound
                else:
                    low += bound
                    size -= bound
                if size < 1 << 32:
                    _put_word(low, at, out)
                    at += 1
                    low = (low & 0xFFFFFFFF) << 16
                    size <<= 16
                left -= 1
        if not spatial:
            scaled = min(magnitude, 65535) << 16
            row += ((scaled - row) * energy_rates[min(x, 127)]) >> 16
            columns[x] += ((scaled - columns[x]) * energy_rates[min(y, 127)]) >> 16
        x += 1
        if x == width:
            x = np.int64(0)
            y += 1
            if y == height:
                y = np.int64(0)
    return low, size, at


@njit(nogil=True, inline="always")
def _get(  # noqa: ANN202
    base,
    node,
    offset,
    size,
    at,
    words,
    states,
    slow_rates,
    fast_rates,  # noqa: ANN001
):
    word = _opened(states[base + node], states[node])
    bound = (size >> 16) * _chance(word)
    bit = np.int64(offset < bound)
    size = bound if bit else size - bound
    offset = offset if bit else offset - bound
    states[base + node] = _adapted(word, bit, slow_rates, fast_rates)
    if word & 1023 < 32:
        _teach_parent(states, node, bit, slow_rates, fast_rates)
    if size < 1 << 32:
        size <<= 16
        offset <<= 16
        if at < words.size:
            offset |= np.int64(words[at])
        at += 1
    return bit, offset, size, at


def _decode_chunk(  # noqa: ANN202
    words,
    has_zeros,
    height,
    width,
    shift,
    thresholds,
    tables,
    states,
    columns,
    values,  # noqa: ANN001
):
    slow_rates, fast_rates, energy_rates = tables[0], tables[1], tables[2]
    size = np.int64(1 << 48)
    offset = np.int64(0)
    for index in range(3):
        offset <<= 16
        if index < words.size:
            offset |= np.int64(words[index])
    at = np.int64(3)
    spatial = height > 0
    x, y = np.int64(0), np.int64(0)
    row = np.int64(0)
    for place in range(values.size):
        if at - 3 > words.size:
            return offset, size, np.int64(-1)
        if spatial:
            context = _kernel_context(values, place, x, y, width, shift)
        else:
            context = _energy_context((row + columns[x]) >> 8, thresholds)
        base = context << 11
        magnitude = np.int64(0)
        present = np.int64(1)
        if has_zeros:
            present, offset, size, at = _get(
                base, 992, offset, size, at, words, states, slow_rates, fast_rates
            )
        if present:
            negative, offset, size, at = _get(
                base, 993, offset, size, at, words, states, slow_rates, fast_rates
            )
            first = negative << 10
            group = np.int64(0)
            while group < 30:
                bit, offset, size, at = _get(
                    base, first, offset, size, at, words, states, slow_rates, fast_rates
                )
                if bit == 0:
                    break
                group += 1
                first += 32
            left = group
            branch = np.int64(1)
            while left >= 0 and branch < 32:
                bit, offset, size, at = _get(
                    base, first + branch, offset, size, at, words, states, slow_rates, fast_rates
                )
                branch = 2 * branch + bit
                left -= 1
            while left >= 0:
                bound = (size >> 16) * _HALF
                bit = np.int64(offset < bound)
                if bit:
                    size = bound
                else:
                    offset -= bound
                    size -= bound
                if size < 1 << 32:
                    size <<= 16
                    offset <<= 16
                    if at < words.size:
                        offset |= np.int64(words[at])
                    at += 1
                branch = 2 * branch + bit
                left -= 1
            magnitude = branch - 1
            if magnitude > 0x7FFFFFFF + negative:
                return offset, size, np.int64(-2)
            values[place] = -magnitude if negative else magnitude
        if not spatial:
            scaled = min(magnitude, 65535) << 16
            row += ((scaled - row) * energy_rates[min(x, 127)]) >> 16
            columns[x] += ((scaled - columns[x]) * energy_rates[min(y, 127)]) >> 16
        x += 1
        if x == width:
            x = np.int64(0)
            y += 1
            if y == height:
                y = np.int64(0)
    return offset, size, at


def _sample_energies(values, width, step, tables, columns, out):  # noqa: ANN001, ANN202
    energy_rates = tables[2]
    x, y = np.int64(0), np.int64(0)
    row = np.int64(0)
    for place in range(values.size):
        if place % step == 0 and place // step < out.size:
            out[place // step] = (row + columns[x]) >> 8
        scaled = min(abs(np.int64(values[place])), 65535) << 16
        row += ((scaled - row) * energy_rates[min(x, 127)]) >> 16
        columns[x] += ((scaled - columns[x]) * energy_rates[min(y, 127)]) >> 16
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
            except OSError:  # raised on loading or saving, before the loop has run
                usable[0] = False
        return plain(*arguments)

    return run


encode_chunk = _compiled(_encode_chunk)
decode_chunk = _compiled(_decode_chunk)
sample_energies = _compiled(_sample_energies)
