"""Quantize a tensor to multiples of a step, the same for all or scaled for each row.

Every multiple that occurs is a level of its own, so that an outlier costs its own bits and does no
harm to the rest; the entropy coder makes rare levels cheap. The step follows from the precision
that is asked for:

- up to 5 bits the mean square error is that of the best 2^bits levels for normal values (Max
  1960, table I);
- from 6 bits on it is that of rounding each row to 2^bits - 1 multiples of its largest value, the
  usual scheme of Krishnamoorthi 2018, section 2, outliers apart.

Errors are relative to the mean square of each row, since a normalization after the layer, or the
next layer, undoes the scale of a row. Entropy-coded uniform grids are within 0.25 bits of the
rate-distortion bound (Gish and Pierce 1968), k-means levels of the same number are not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from flyweight import _native
from flyweight.coding import MAX_LEVELS
from flyweight.coding.scalars import DTYPES
from flyweight.coding.threads import in_threads

__all__ = [
    "RowStatistics",
    "Tally",
    "UniformGrid",
    "UniformLevels",
    "as_rows",
    "row_statistics",
    "tally",
    "to_levels",
    "uniform_grids",
]

# Steps, in standard deviations of normal values, that give the error of the best 2^bits levels.
_STEPS = {1: 2.483, 2: 1.264, 3: 0.6553, 4: 0.3392, 5: 0.1734}
_LEAST_ROW = 4  # elements; a scale for fewer cannot pay
_OUTLIER = 6.0  # times the root mean square of the others
_MOST_OUTLIERS = 0.01  # fraction of the nonzero values of a row
_BLOCK = 1 << 20  # elements in work at a time
_ZERO = 2048  # slot of the multiple 0, in the middle; multiples of this size are beyond the table
_LARGE = 0  # slot of all that are beyond it
_SLOTS = 2 * _ZERO
_SUM_BITS = 24  # of a step, in which sums beyond multiples are whole numbers
_LEAST_BASE = 128.0  # levels are stored as multiples of 1/base: small scales stay normal numbers
_LARGEST_LEVEL = 32_768.0
_FLOAT16_RANGE = (2.0**-14, 2.0**15)  # of scales
_FLOAT16_LARGEST = 65_504.0
_LEAST_FLOAT16_STEP = 2.0**-18  # float16 is exact to a hundredth of it


@dataclass(frozen=True)
class RowStatistics:
    """Root mean square and peak of the values of each row, zeros and outliers apart.

    Both are 1-D, of as many rows as the tensor has, or one for a tensor without rows to speak of.
    """

    rms: NDArray[np.float64]
    peak: NDArray[np.float64]


@dataclass(frozen=True)
class UniformGrid:
    """A step for each row, or a single one; ``scaled`` says whether rows have scales."""

    steps: NDArray[np.float32]
    scaled: bool


def as_rows(values: NDArray[Any]) -> NDArray[Any]:
    """View a tensor as a matrix of its output channels; as one row where these are tiny."""
    rows = values.shape[0] if values.ndim > 1 else 1
    if not values.size or values.size // rows < _LEAST_ROW:
        rows = 1
    return values.reshape(rows, -1)


_Found = TypeVar("_Found")


def _in_blocks(
    work: Callable[[slice, slice], _Found], shape: tuple[int, ...], threads: int | None
) -> list[tuple[slice, _Found]]:
    """Work on blocks of whole rows, or of parts of one row; return the rows and what was found."""
    rows, columns = shape
    high = max(1, _BLOCK // max(1, columns))
    blocks = [
        (slice(top, top + high), slice(left, left + _BLOCK))
        for top in range(0, rows, high)
        for left in range(0, columns, _BLOCK)
    ]
    found = in_threads(lambda block: work(*block), blocks, threads)
    return [(up, one) for (up, _), one in zip(blocks, found, strict=True)]


def row_statistics(
    matrix: NDArray[Any], dtype: str, threads: int | None = None
) -> RowStatistics | None:
    """Measure the rows of a matrix; None if it holds NaN or infinity, or nothing but zeros.

    Outliers are values beyond six times the root mean square of the others, at most one in a
    hundred of a row.
    """
    first, rms, peak = _measured(matrix, dtype, np.full(matrix.shape[0], np.inf), threads)
    if not np.isfinite(rms).all() or not first.any():
        return None
    open_ = np.full(matrix.shape[0], True)
    for _ in range(3):
        open_ &= peak > _OUTLIER * rms
        if not open_.any():
            break
        limits = np.where(open_, _OUTLIER * rms, -1.0)
        counts, trimmed, below = _measured(matrix, dtype, limits, threads)
        open_ &= first - counts <= np.maximum(1, _MOST_OUTLIERS * first)
        rms[open_], peak[open_] = trimmed[open_], below[open_]
    return RowStatistics(rms, peak)


def _measured(
    matrix: NDArray[Any], dtype: str, limits: NDArray[np.float64], threads: int | None
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Count the nonzero values up to the limit of their row; their root mean square and peak."""
    rows = matrix.shape[0]
    counts, squares, peak = np.zeros(rows, np.int64), np.zeros(rows), np.zeros(rows)
    bounds = limits.astype(np.float32)

    def measure(up: slice, across: slice) -> tuple[NDArray[Any], ...]:
        part = matrix[up, across]
        own = np.zeros(len(part), np.int64), np.zeros(len(part)), np.zeros(len(part))
        _native.measure_rows(part, DTYPES.index(dtype), bounds[up], *own)
        return own

    for up, (count, square, most) in _in_blocks(measure, matrix.shape, threads):
        counts[up] += count
        squares[up] += square
        np.maximum(peak[up], most, out=peak[up])
    return counts, np.sqrt(squares / np.maximum(counts, 1)), peak


def uniform_grids(statistics: RowStatistics, bits: int) -> list[UniformGrid]:
    """Return the grids of about the precision of ``bits``: one step, and a step for each row."""
    used = statistics.rms > 0
    rms, peak = statistics.rms[used], statistics.peak[used]
    if bits in _STEPS:
        ratio = _STEPS[bits]
    else:
        plain = peak / (2.0 ** (bits - 1) - 1)
        ratio = float(
            np.sqrt(min(np.mean((plain / rms) ** 2), np.mean(plain**2) / np.mean(rms**2)))
        )
    one = ratio / float(np.sqrt(np.mean(rms**-2.0)))
    grids = [UniformGrid(np.array([one], np.float32), scaled=False)]
    if statistics.rms.size > 1:
        own = np.where(used, statistics.rms, np.median(rms)) * ratio
        grids.append(UniformGrid(own.astype(np.float32), scaled=True))
    return [grid for grid in map(_stored, grids) if grid is not None]


def _stored(grid: UniformGrid) -> UniformGrid | None:
    """Round steps to float16 where it can hold them: half the bytes, and the same everywhere."""
    if not np.isfinite(grid.steps).all() or not (grid.steps > 0).all():
        return None
    scaled = grid.steps * np.float32(_LEAST_BASE)
    low, high = _FLOAT16_RANGE
    if low <= float(scaled.min()) and float(scaled.max()) <= high:
        scaled = scaled.astype(np.float16).astype(np.float32)
    return UniformGrid(scaled / np.float32(_LEAST_BASE), grid.scaled)


@dataclass(frozen=True)
class Tally:
    """The multiples that occur in a tensor.

    Attributes:
        multiples: of the step, ascending; 0 is among them if it occurs.
        counts: how often each occurs.
        levels: mean of the values of each, in steps.
        error: mean square error of the levels over all elements, in units of the mean square of
            the row.
    """

    multiples: NDArray[np.float64]
    counts: NDArray[np.int64]
    levels: NDArray[np.float64]
    error: float


def tally(
    matrix: NDArray[Any],
    dtype: str,
    grid: UniformGrid,
    rms: NDArray[np.float64],
    threads: int | None = None,
) -> Tally | None:
    """Count the multiples of a grid; None where there are more than a file can hold."""
    number = DTYPES.index(dtype)
    steps = np.broadcast_to(grid.steps, rms.shape).copy()
    counts, beyond, squares = np.zeros(_SLOTS, np.int64), np.zeros(_SLOTS, np.int64), 0 * rms

    def count(up: slice, across: slice) -> tuple[NDArray[Any], ...]:
        part = matrix[up, across]
        own = np.zeros(_SLOTS, np.int64), np.zeros(_SLOTS, np.int64), np.zeros(len(part))
        _native.tally(part, number, steps[up], *own)
        large = np.empty(own[0][_LARGE], np.float32)
        if large.size:
            _native.large_multiples(part, number, steps[up], large)
        return *own, large

    large: list[NDArray[np.float32]] = []
    for up, own in _in_blocks(count, matrix.shape, threads):
        counts += own[0]
        beyond += own[1]
        squares[up] += own[2]
        large.append(own[3])
    found = np.unique(np.concatenate(large), return_counts=True)
    counts[_LARGE] = 0
    slots = np.flatnonzero(counts)
    multiples = slots.astype(np.float64) - _ZERO
    shifts = np.where(multiples == 0, 0, beyond[slots] / counts[slots] / 2.0**_SUM_BITS)
    total, gain = float(squares.sum()), float((shifts**2 * counts[slots]).sum())
    importance = np.square(steps / np.where(rms > 0, rms, np.inf), dtype=np.float64)
    error = float((importance * squares).sum()) * (1 - gain / total if total else 0.0)
    levels = multiples + shifts
    counts = counts[slots]
    if not np.isfinite(found[0]).all() or slots.size + found[0].size > MAX_LEVELS:
        return None
    multiples = np.concatenate([multiples, found[0]])
    order = np.argsort(multiples, kind="stable")
    multiples, levels = multiples[order], np.concatenate([levels, found[0]])[order]
    counts = np.concatenate([counts, found[1]])[order]
    return Tally(multiples, counts, levels, max(error, 0.0) / matrix.size)


@dataclass(frozen=True)
class UniformLevels:
    """Symbols, levels and scales as `encode_shared` takes them, as numbers of float32."""

    symbols: NDArray[Any]
    levels: NDArray[np.float32]
    scales: NDArray[np.float32] | None


def to_levels(
    matrix: NDArray[Any], dtype: str, grid: UniformGrid, found: Tally, threads: int | None = None
) -> UniformLevels | None:
    """Turn values into symbols, and multiples into levels; None where there are none or too many.

    Levels are rounded to float16 where that loses little.
    """
    nonzero = found.multiples != 0
    multiples, levels = found.multiples[nonzero], found.levels[nonzero]
    if not 1 <= levels.size <= MAX_LEVELS:
        return None
    symbols = _symbols(matrix, dtype, grid, multiples, threads)
    if grid.scaled:
        largest = float(np.abs(levels).max())
        base = max(_LEAST_BASE, 2.0 ** np.ceil(np.log2(largest / _LARGEST_LEVEL)))
        return UniformLevels(symbols, _narrowed(levels / base), grid.steps * np.float32(base))
    step = float(grid.steps[0])
    levels = levels * step
    exact = step >= _LEAST_FLOAT16_STEP
    return UniformLevels(symbols, _narrowed(levels) if exact else levels.astype(np.float32), None)


def _symbols(
    matrix: NDArray[Any],
    dtype: str,
    grid: UniformGrid,
    multiples: NDArray[np.float64],
    threads: int | None,
) -> NDArray[Any]:
    inside = np.abs(multiples) < _ZERO
    table = np.zeros(_SLOTS, np.uint16)
    table[multiples[inside].astype(np.int64) + _ZERO] = np.flatnonzero(inside) + 1
    large = multiples[~inside].astype(np.float32)
    large_symbols = (np.flatnonzero(~inside) + 1).astype(np.uint16)
    symbols = np.empty(matrix.shape, np.uint8 if multiples.size < 256 else np.uint16)
    steps = np.broadcast_to(grid.steps, matrix.shape[:1]).copy()

    def look_up(up: slice, across: slice) -> None:
        tables = steps[up], table, large, large_symbols
        _native.grid_symbols(matrix[up, across], DTYPES.index(dtype), *tables, symbols[up, across])

    _in_blocks(look_up, matrix.shape, threads)
    return symbols


def _narrowed(levels: NDArray[np.float64]) -> NDArray[np.float32]:
    if np.abs(levels).max() > _FLOAT16_LARGEST:
        return levels.astype(np.float32)
    return levels.astype(np.float16).astype(np.float32)
