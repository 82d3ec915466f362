"""Adaptive binary context coding of quantised tensors: the smallest of the codes here, and slow.

Theory: a value is cut into binary decisions (is it zero, its sign, its magnitude in an
Exp-Golomb tree), and each is coded at the cost of its estimated probability by a range coder.
The estimates are learned while coding, apart for each *context*: what the values coded before
make likely. Nothing about the distribution is stored, so even small tensors pay little.

A tensor of rank 3 or more whose last dimensions are a small kernel takes its contexts from the
value that left, upper and upper-left neighbours in the kernel predict. Any other takes them
from the mean magnitudes of the row (the index of dimension 0) and of the column so far.

Cost: one multiplication and two estimates a decision, one to seven decisions a value. Loops
compiled by Numba code 15 to 60 million values a second on one core, plain Python 100,000 to
300,000; both give the same bytes. Tensors above 2**22 elements are coded in chunks, on threads.

Example:

>>> payload = encode_context([[0, 0, 0, 1], [0, 0, -3, 0]])
>>> decode_context(payload, (2, 4)).tolist()
[[0, 0, 0, 1], [0, 0, -3, 0]]

Sources: Martin 1979 (range coding); Marpe, Schwarz & Wiegand 2003 (binarisation and
contexts); Wiedemann et al. 2020, "DeepCABAC" (its use for weights); Weinberger, Seroussi &
Sapiro 2000 (prediction from neighbours).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import prod
from types import ModuleType
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flyweight.coding.positions import bounded_size
from flyweight.coding.threads import in_threads
from flyweight.coding.varint import ByteReader, varint
from flyweight.errors import FormatError, ModelError

__all__ = ["Engine", "decode_context", "encode_context", "signed_values", "symbols_of"]

Engine = Literal["auto", "python", "numba"]


_CHUNK = 1 << 22
_WITHOUT_NUMBA = 20_000  # up to here plain Python is done before Numba is loaded

_SPATIAL = 1
_HAS_ZEROS = 2
_LARGEST_KERNEL = 256
_MAX_SHIFT = 27
_MAX_THRESHOLDS = 7
_THRESHOLDS_FROM = 4096  # elements; below, more contexts cost more than they save
_SAMPLED = 1 << 18  # values at the start whose energies give the thresholds

_SLOWEST, _FASTEST, _ENERGY_SLOWEST = 64, 512, 512  # least rates, in 1/65536
_CONTEXTS = 10
_UNSEEN = 1 << 53 | 1 << 31  # a state: slow and fast estimate, 22 bits each, and 10 of count
_GROUPS = 31
_SMALL = 62  # the largest magnitude that is told by modelled decisions alone
_IS_KEPT = 992  # nodes: see `_tree`
_SIGN = 993


def _rates(length: int, least: int) -> NDArray[np.int64]:
    return np.maximum(131_072 // (2 * np.arange(length) + 3), least).astype(np.int64)


def _energy_rates() -> NDArray[np.int64]:
    """Return the rates of energies: a row's at place x is number x, a column's number y + 1.

    A row lags by one value, so that the next context need not wait for the value before it.
    """
    return np.concatenate([[_ENERGY_SLOWEST], _rates(128, _ENERGY_SLOWEST)])


@dataclass(frozen=True)
class _Layout:
    """How a stream is to be read: its header, and what follows from the shape."""

    has_zeros: bool
    height: int  # of a kernel; 0 where contexts come from energies
    width: int  # of a kernel, or of a row
    shift: int = 0
    thresholds: tuple[int, ...] = ()

    def chunks(self, count: int) -> list[tuple[int, int]]:
        unit = max(self.height, 1) * self.width
        length = _CHUNK // unit * unit or _CHUNK
        return [(begin, min(begin + length, count)) for begin in range(0, count, length)]


def signed_values(symbols: ArrayLike, negatives: int) -> NDArray[np.int32]:
    """Return the place of each symbol's level above or below zero.

    Symbol 0 is zero and symbol k the k-th level in ascending order, of which the first
    ``negatives`` lie below zero.

    >>> signed_values([0, 1, 2, 3, 4], 2).tolist()
    [0, -2, -1, 1, 2]
    """
    places = np.asarray(symbols, dtype=np.int64)
    values = places - negatives - (places <= negatives)
    return np.where(places == 0, 0, values).astype(np.int32)


def symbols_of(values: ArrayLike, negatives: int) -> NDArray[np.int32]:
    """Return the symbols that `signed_values` was given.

    >>> symbols_of([0, -2, -1, 1, 2], 2).tolist()
    [0, 1, 2, 3, 4]
    """
    places = np.asarray(values, dtype=np.int32)
    symbols = places + (places < 0)
    symbols += negatives
    symbols *= places != 0
    return symbols


def encode_context(
    values: ArrayLike, *, engine: Engine = "auto", threads: int | None = None
) -> bytes:
    """Return quantised values as one context-coded stream.

    Arguments:
        values: integers in the range of int32, any shape; 0 is an exact zero, 1 the first level
            above zero, -1 the first below. The shape is not stored.
        engine: "python" or "numba" instead of the faster one that is there; same bytes.
        threads: how many chunks are coded at once; by default one a core. Same bytes.

    Raises ModelError if values are no integers or lie outside int32.
    """
    array = np.asarray(values)
    if array.size == 0:
        return b""
    if not np.issubdtype(array.dtype, np.integer):
        raise ModelError(f"context coding takes integers, not {array.dtype}.")
    least, most = int(array.min()), int(array.max())
    if least < -(1 << 31) or most >= 1 << 31:
        raise ModelError(f"context coding takes values of int32; {least} to {most} were given.")
    flat = np.ascontiguousarray(array, dtype=np.int32).ravel()
    kernels = _kernels(engine, flat.size)
    has_zeros = bool((flat == 0).any())
    height, width = _kernel_extents(array.shape)
    if 1 < height * width <= _LARGEST_KERNEL:
        shift = max(0, max(-least, most).bit_length() - 5)
        layout = _Layout(has_zeros, height, width, shift)
        header = bytes([_SPATIAL | _HAS_ZEROS * has_zeros, shift])
    else:
        width = _row_length(array.shape)
        thresholds = _thresholds(flat[:_SAMPLED], width, kernels)
        layout = _Layout(has_zeros, 0, width, 0, thresholds)
        steps = np.diff(thresholds, prepend=0).tolist()
        header = bytes([_HAS_ZEROS * has_zeros, len(steps)]) + b"".join(map(varint, steps))
    pieces = [flat[begin:end] for begin, end in layout.chunks(flat.size)]
    coded = in_threads(lambda piece: _encode_chunk(piece, layout, kernels), pieces, threads)
    return header + b"".join(varint(len(chunk)) for chunk in coded[:-1]) + b"".join(coded)


def decode_context(
    payload: bytes, shape: tuple[int, ...], *, engine: Engine = "auto", threads: int | None = None
) -> NDArray[np.int32]:
    """Return the values that `encode_context` stored, of the given shape.

    Raises FormatError if the payload is not exactly what the encoder writes. More elements
    than ``2**20 + 4096 * len(payload)`` are refused before anything is allocated.
    """
    count = prod(shape)
    if min(shape, default=0) < 0:
        raise FormatError(f"a context-coded tensor has the negative shape {shape}.")
    if count == 0:
        if payload:
            raise FormatError("a context-coded stream of no values is not empty.")
        return np.zeros(shape, dtype=np.int32)
    if count > bounded_size(len(payload)):
        raise FormatError(f"{count} context-coded values cannot fit in {len(payload)} bytes.")
    reader = ByteReader(payload, "a context-coded stream")
    layout = _read_layout(reader, shape)
    chunks = layout.chunks(count)
    lengths = [reader.varint() for _ in chunks[1:]]
    coded = [reader.take(length) for length in lengths] + [reader.rest()]
    kernels = _kernels(engine, count)
    values = np.zeros(count, dtype=np.int32)
    jobs = [(chunk, values[begin:end]) for chunk, (begin, end) in zip(coded, chunks, strict=True)]
    in_threads(lambda job: _decode_chunk(*job, layout, kernels), jobs, threads)
    return values.reshape(shape)


def _kernel_extents(shape: tuple[int, ...]) -> tuple[int, int]:
    return (shape[-2] if len(shape) > 3 else 1), (shape[-1] if len(shape) > 2 else 1)


def _row_length(shape: tuple[int, ...]) -> int:
    return prod(shape[1:] if len(shape) > 1 else shape)


def _thresholds(
    values: NDArray[np.int32], width: int, kernels: ModuleType | None
) -> tuple[int, ...]:
    """Return energies that part the values into equally large contexts."""
    if values.size < _THRESHOLDS_FROM:
        return ()
    step = 5  # odd: not the same few columns again and again
    sample = np.zeros(-(-values.size // step), dtype=np.int64)
    if kernels is None:
        _sample_energies(values, width, step, sample)
    else:
        columns = np.zeros(min(width, values.size), dtype=np.int64)
        kernels.sample_energies(values, width, step, _energy_rates(), columns, sample)
    ranks = np.arange(1, _MAX_THRESHOLDS + 1) * sample.size // (_MAX_THRESHOLDS + 1)
    return tuple(sorted(set(np.partition(sample, ranks)[ranks].tolist())))


def _read_layout(reader: ByteReader, shape: tuple[int, ...]) -> _Layout:
    flags, number = reader.take(2)
    if flags > _SPATIAL | _HAS_ZEROS:
        raise FormatError(f"a context-coded stream has flags that are unknown ({flags}).")
    spatial = bool(flags & _SPATIAL)
    if spatial and len(shape) < 3:
        raise FormatError(f"a context-coded stream takes a tensor of shape {shape} for kernels.")
    if number > (_MAX_SHIFT if spatial else _MAX_THRESHOLDS):
        raise FormatError(f"a context-coded stream has a header out of range ({number}).")
    if spatial:
        height, width = _kernel_extents(shape)
        return _Layout(bool(flags & _HAS_ZEROS), height, width, number)
    steps = [reader.varint() for _ in range(number)]
    thresholds = [sum(steps[: index + 1]) for index in range(number)]
    if 0 in steps[1:] or max(thresholds, default=0) >= 1 << 40:
        raise FormatError("a context-coded stream has thresholds that do not ascend.")
    return _Layout(bool(flags & _HAS_ZEROS), 0, _row_length(shape), 0, tuple(thresholds))


def _kernels(engine: Engine, count: int) -> ModuleType | None:
    if engine == "python":
        return None
    if engine == "auto" and count < _WITHOUT_NUMBA and "numba" not in sys.modules:
        return None
    try:
        from flyweight.coding import context_kernels
    except ImportError:
        if engine == "numba":
            raise
        return None
    return context_kernels


@cache
def _tree() -> NDArray[np.int32]:
    """Return what follows node n after bit b, at 2 n + b: a node, or below zero a leaf.

    A leaf is ``-1 - (negative | bits << 1 | top << 6)``: the magnitude plus one begins with the
    bits of ``top``, and that many more bits follow, coded without a model.
    """
    tree = np.full(1 << 12, -1 - (1 << 6), dtype=np.int32)
    tree[2 * _IS_KEPT + 1] = _SIGN
    for negative in (0, 1):
        tree[2 * _SIGN + negative] = negative << 10
        for group in range(_GROUPS):
            node = negative << 10 | group << 5
            last = group == _GROUPS - 1
            if not last:
                tree[2 * node] = node + 1
                tree[2 * node + 1] = node + 32 + (group == _GROUPS - 2)
            depth = min(group + 1, 5)
            for branch in range(1, 1 << depth):
                for top in (2 * branch, 2 * branch + 1):
                    leaf = negative | (group + 1 - depth) << 1 | top << 6
                    inner = not top >> depth
                    tree[2 * node + top] = node + top if inner else -1 - leaf
    return tree


def _path(value: int, has_zeros: bool) -> list[int]:
    """Return the decisions that tell a value by the tree, each as 2 node + bit."""
    path = [2 * _IS_KEPT + (value != 0)] if has_zeros else []
    if value:
        negative = int(value < 0)
        total = abs(value) + 1
        group = total.bit_length() - 2
        first = negative << 10
        path.append(2 * _SIGN + negative)
        path += [2 * (first + 32 * index) + 1 for index in range(group)]
        first += 32 * group
        if group < _GROUPS - 1:
            path.append(2 * first)
        path += [2 * first + (total >> left) for left in range(group, max(group - 5, -1), -1)]
    return path


@cache
def _paths(has_zeros: bool) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the paths of all small values end to end, and where each begins."""
    paths = [_path(value, has_zeros) for value in range(-_SMALL, _SMALL + 1)]
    starts = np.cumsum([0, *map(len, paths)], dtype=np.int64)
    return np.array([step for path in paths for step in path], dtype=np.int32), starts


def _tables(layout: _Layout, size: int) -> tuple[NDArray[np.int64], ...]:
    """Return what both compiled loops take: thresholds, rates, states and columns."""
    thresholds = np.full(_MAX_THRESHOLDS, 1 << 62, dtype=np.int64)
    thresholds[: len(layout.thresholds)] = layout.thresholds
    return (
        thresholds,
        _rates(1024, _SLOWEST),
        _rates(1024, _FASTEST),
        _energy_rates(),
        np.zeros(_CONTEXTS << 11, dtype=np.int64),
        np.zeros(1 if layout.height else min(layout.width, size), dtype=np.int64),
    )


def _last_words(low: int, size: int) -> int:
    """Return the number in low...low + size - 1 that ends in most zero bytes."""
    for bits in range(48, 0, -8):
        number = -(-low >> bits) << bits
        if number < low + size:
            return number
    return low


def _trimmed(last: int) -> bytes:
    return (last & (1 << 48) - 1).to_bytes(6, "big").rstrip(b"\0")


def _encode_chunk(values: NDArray[np.int32], layout: _Layout, kernels: ModuleType | None) -> bytes:
    if kernels is None:
        words, low, size = _encode_plainly(values, layout)
        words_before = np.array(words, dtype=np.uint16)
    else:
        paths, starts = _paths(layout.has_zeros)
        room = np.concatenate([paths, np.zeros(64, dtype=np.int32)])
        capacity = values.size // 2 + 1024
        at = -1
        while at < 0:
            out = np.zeros(capacity, dtype=np.uint16)
            low, size, at = kernels.encode_chunk(
                values, room, starts, layout.has_zeros, layout.height, layout.width,
                layout.shift, *_tables(layout, values.size), out,
            )  # fmt: skip
            capacity *= 4
        words_before = out[:at]
    last = _last_words(low, size)
    if last >> 48:
        _carry(words_before)
    return words_before.astype(">u2").tobytes() + _trimmed(last)


def _carry(words: NDArray[np.uint16] | list[int]) -> None:
    """Add one to the number that 16-bit words make up."""
    at = len(words) - 1
    while words[at] == 0xFFFF:
        words[at] = 0
        at -= 1
    words[at] += 1


def _decode_chunk(
    chunk: bytes, values: NDArray[np.int32], layout: _Layout, kernels: ModuleType | None
) -> None:
    words = np.frombuffer(chunk + bytes(len(chunk) % 2), dtype=">u2").astype(np.uint16)
    if kernels is None:
        offset, size, at = _decode_plainly(words.tolist(), values, layout)
    else:
        offset, size, at = kernels.decode_chunk(
            words, _tree(), layout.has_zeros, layout.height, layout.width, layout.shift,
            *_tables(layout, values.size), values,
        )  # fmt: skip
    if at == -2:
        raise FormatError("a context-coded stream holds a value outside int32.")
    if at >= 0:
        last = int.from_bytes(chunk[2 * at - 6 : 2 * at].ljust(6, b"\0"), "big")
        low = (last - offset) % (1 << 48)
        expected = _last_words(low, size) % (1 << 48)
        if last == expected and len(chunk) == 2 * at - 6 + len(_trimmed(last)):
            return
    raise FormatError(
        f"a context-coded stream of {values.size} values does not end at {len(chunk)} bytes."
    )


def _kernel_context(left: int, up: int, corner: int, shift: int) -> int:
    """Return the context, 1 to 9, of a value that its neighbours predict."""
    guess = 2 * left + 2 * up - corner
    steep = abs(guess) >> shift
    level = (steep > 0) + (steep > 4) + (steep > 9) + (steep > 16)
    return 5 + level if guess > 0 else 5 - level


def _contexts_plainly(
    layout: _Layout, values: list[int]
) -> tuple[Callable[[], int], Callable[[int], None]]:
    """Return what gives the next value's context, and what takes that value in.

    ``values`` holds the values before; who calls puts the new one there.
    """
    height, width, shift = layout.height, layout.width, layout.shift
    x = y = row = late = 0
    columns = [0] * (1 if height else width)
    thresholds = layout.thresholds
    rates = _energy_rates().tolist()

    def spatial_context() -> int:
        left = values[-1] if x else 0
        if not y:
            return _kernel_context(left, 0, 0, shift)
        return _kernel_context(left, values[-width], values[-width - 1] if x else 0, shift)

    def energy_context() -> int:
        energy = (row + columns[x]) >> 8
        context = 1
        for threshold in thresholds:
            context += energy > threshold
        return context

    def advance(value: int) -> None:
        nonlocal x, y, row, late
        if not height:
            scaled = min(abs(value), 65_535) << 16
            row += (late - row) * rates[min(x, 128)] >> 16
            late = scaled
            columns[x] += (scaled - columns[x]) * rates[min(y + 1, 128)] >> 16
        x += 1
        if x == width:
            x = 0
            y += 1
            if y == height:
                y = 0

    return (spatial_context if height else energy_context), advance


def _sample_energies(
    values: NDArray[np.int32], width: int, step: int, out: NDArray[np.int64]
) -> None:
    rates = _energy_rates().tolist()
    columns = [0] * width
    x = y = row = late = 0
    for place, value in enumerate(values.tolist()):
        if place % step == 0:
            out[place // step] = (row + columns[x]) >> 8
        scaled = min(abs(value), 65_535) << 16
        row += (late - row) * rates[min(x, 128)] >> 16
        late = scaled
        columns[x] += (scaled - columns[x]) * rates[min(y + 1, 128)] >> 16
        x += 1
        if x == width:
            x = 0
            y += 1


def _states_plainly() -> tuple[Callable[[int, int], int], Callable[[int, int, int, int], None]]:
    """Return what opens a state, and what teaches it the bit that was coded."""
    slow_rates = _rates(1024, _SLOWEST).tolist()
    fast_rates = _rates(1024, _FASTEST).tolist()
    states = [0] * (_CONTEXTS << 11)

    def opened(base: int, node: int) -> int:
        word = states[base + node]
        if not word:
            word = states[node] or _UNSEEN
            if word & 1023 > 4:
                word = word & ~1023 | 4
        return word

    def teach(word: int, base: int, node: int, bit: int) -> None:
        count = word & 1023
        fast = word >> 10 & 0x3FFFFF
        slow = word >> 32
        target = bit << 22
        slow += (target - slow) * slow_rates[count] >> 16
        fast += (target - fast) * fast_rates[count] >> 16
        states[base + node] = slow << 32 | fast << 10 | (count + 1 if count < 1023 else count)
        if base and count < 32:
            teach(states[node] or _UNSEEN, 0, node, bit)

    return opened, teach


def _chance(word: int) -> int:
    """Return the estimate that a state makes of a 1, of 65,536."""
    chance = (word >> 32) + (word >> 10 & 0x3FFFFF) >> 7
    return 96 if chance < 96 else 65_440 if chance > 65_440 else chance


def _encode_plainly(values: NDArray[np.int32], layout: _Layout) -> tuple[list[int], int, int]:
    """Return the words of a chunk, and low end and size of the interval that is left."""
    before: list[int] = []
    context_of, advance = _contexts_plainly(layout, before)
    opened, teach = _states_plainly()
    words: list[int] = []
    low, size = 0, 1 << 48

    def put(bit: int, chance: int) -> None:
        nonlocal low, size
        bound = (size >> 16) * chance
        if bit:
            size = bound
        else:
            low += bound
            size -= bound
        if size < 1 << 32:
            if low >> 48:
                _carry(words)
            words.append(low >> 32 & 0xFFFF)
            low = (low & 0xFFFFFFFF) << 16
            size <<= 16

    for value in values.tolist():
        base = context_of() << 11
        for step in _path(value, layout.has_zeros):
            word = opened(base, step >> 1)
            put(step & 1, _chance(word))
            teach(word, base, step >> 1, step & 1)
        total = abs(value) + 1
        for left in range(total.bit_length() - 7, -1, -1):
            put(total >> left & 1, 1 << 15)
        before.append(value)
        advance(value)
    return words, low, size


def _decode_plainly(
    words: list[int], values: NDArray[np.int32], layout: _Layout
) -> tuple[int, int, int]:
    """Fill values; return the offset in the interval left, its size, and the words read.

    A negative number of words says what is wrong: -1 too few of them, -2 too large a value.
    """
    before: list[int] = []
    context_of, advance = _contexts_plainly(layout, before)
    opened, teach = _states_plainly()
    tree = _tree().tolist()
    root = _IS_KEPT if layout.has_zeros else _SIGN
    number = len(words)
    first = [*words[:3], 0, 0, 0]
    offset = first[0] << 32 | first[1] << 16 | first[2]
    size = 1 << 48
    at = 3

    def get(chance: int) -> int:
        nonlocal offset, size, at
        bound = (size >> 16) * chance
        bit = 1
        if offset < bound:
            size = bound
        else:
            bit = 0
            offset -= bound
            size -= bound
        if size < 1 << 32:
            size <<= 16
            offset = offset << 16 | (words[at] if at < number else 0)
            at += 1
        return bit

    for _ in range(values.size):
        if at - 3 > number:
            return offset, size, -1
        base = context_of() << 11
        node = root
        while node >= 0:
            word = opened(base, node)
            bit = get(_chance(word))
            teach(word, base, node, bit)
            node = tree[2 * node + bit]
        leaf = -1 - node
        total = leaf >> 6
        for _ in range(leaf >> 1 & 31):
            total = 2 * total + get(1 << 15)
        if total - 1 > 0x7FFFFFFF + (leaf & 1):
            return offset, size, -2
        value = 1 - total if leaf & 1 else total - 1
        before.append(value)
        advance(value)
    values[:] = before
    return offset, size, at
