"""Header of a context-coded stream, and the layout that it and the shape determine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from flyweight.coding.context.model import KERNEL_STEPS
from flyweight.coding.varint import ByteReader, varint
from flyweight.errors import FormatError

__all__ = ["Layout", "Sampler", "chosen_layout", "header_of", "read_layout"]

Sampler = Callable[[NDArray[np.int32], int, int], NDArray[np.int64]]
"""Takes values, the length of their rows, and n; gives the energy before every n-th value."""

_SPATIAL = 1
_HAS_ZEROS = 2
_LARGEST_KERNEL = 256
_MAX_SHIFT = 27
_MAX_THRESHOLDS = 7
_THRESHOLDS_FROM = 4096  # elements; below, more contexts cost more than they save
_SAMPLED = 1 << 18  # values at the start whose energies give the thresholds
_SAMPLE_STEP = 5  # odd, so that the columns differ


@dataclass(frozen=True)
class Layout:
    """How a stream is to be read: its header, and what follows from the shape."""

    has_zeros: bool
    height: int  # of a kernel; 0 where contexts come from energies
    width: int  # of a kernel, or of a row
    shift: int = 0
    thresholds: tuple[int, ...] = ()

    @property
    def bounds(self) -> tuple[int, ...]:
        """What part the contexts: a guess above the first n of these has context n + 1."""
        if not self.height:
            return self.thresholds
        steps = [step << self.shift for step in KERNEL_STEPS]
        return tuple([-step for step in reversed(steps)] + [step - 1 for step in steps])

    def chunks(self, count: int, most: int) -> list[tuple[int, int]]:
        """Return where chunks of at most ``most`` of ``count`` elements begin and end."""
        unit = max(self.height, 1) * self.width
        length = most // unit * unit or most
        return [(begin, min(begin + length, count)) for begin in range(0, count, length)]


def chosen_layout(
    flat: NDArray[np.int32], shape: tuple[int, ...], largest: int, sampled: Sampler
) -> Layout:
    """Return the layout in which values of a shape, ``largest`` in magnitude, are to be coded."""
    has_zeros = bool((flat == 0).any())
    height, width = _kernel_extents(shape)
    if 1 < height * width <= _LARGEST_KERNEL:
        return Layout(has_zeros, height, width, max(0, largest.bit_length() - 5))
    width = _row_length(shape)
    return Layout(has_zeros, 0, width, 0, _thresholds(flat[:_SAMPLED], width, sampled))


def header_of(layout: Layout) -> bytes:
    """Return the layout as the first bytes of a stream."""
    flags = _HAS_ZEROS * layout.has_zeros
    if layout.height:
        return bytes([_SPATIAL | flags, layout.shift])
    steps = np.diff(layout.thresholds, prepend=0).tolist()
    return bytes([flags, len(steps)]) + b"".join(map(varint, steps))


def read_layout(reader: ByteReader, shape: tuple[int, ...]) -> Layout:
    """Return the layout that a stream begins with; raises `FormatError`."""
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
        return Layout(bool(flags & _HAS_ZEROS), height, width, number)
    steps = [reader.varint() for _ in range(number)]
    thresholds = [sum(steps[: index + 1]) for index in range(number)]
    if 0 in steps[1:] or max(thresholds, default=0) >= 1 << 40:
        raise FormatError("a context-coded stream has thresholds that do not ascend.")
    return Layout(bool(flags & _HAS_ZEROS), 0, _row_length(shape), 0, tuple(thresholds))


def _kernel_extents(shape: tuple[int, ...]) -> tuple[int, int]:
    return (shape[-2] if len(shape) > 3 else 1), (shape[-1] if len(shape) > 2 else 1)


def _row_length(shape: tuple[int, ...]) -> int:
    return prod(shape[1:] if len(shape) > 1 else shape)


def _thresholds(values: NDArray[np.int32], width: int, sampled: Sampler) -> tuple[int, ...]:
    """Return energies that part the values into equally large contexts."""
    if values.size < _THRESHOLDS_FROM:
        return ()
    sample = sampled(values, width, _SAMPLE_STEP)
    ranks = np.arange(1, _MAX_THRESHOLDS + 1) * sample.size // (_MAX_THRESHOLDS + 1)
    return tuple(sorted(set(np.partition(sample, ranks)[ranks].tolist())))
