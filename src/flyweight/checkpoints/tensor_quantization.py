"""Quantize a tensor of a checkpoint by the grid that takes fewest bytes for its error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from flyweight import _native
from flyweight.checkpoints.histogram_quantization import histogram_kmeans, histogram_symbols
from flyweight.checkpoints.uniform_grids import (
    RowStatistics,
    UniformGrid,
    as_rows,
    row_statistics,
    tally,
    to_levels,
    uniform_grids,
)
from flyweight.coding import UncodedTensor, entropy, prepare_shared
from flyweight.coding.scalars import DTYPES, distinct_words, nonzero_count

__all__ = ["GRIDS", "QUANTIZED_DTYPES", "Grid", "quantize_tensor"]

#: Grid of a tensor of a checkpoint.
Grid = Literal["auto", "kmeans", "uniform"]
#: The names of `Grid`.
GRIDS: tuple[Grid, ...] = ("auto", "kmeans", "uniform")
QUANTIZED_DTYPES = ("float16", "bfloat16", "float32")

_MOST_BITS_OF_KMEANS = 5  # beyond, a uniform grid is always smaller for its error
_SAMPLE = 1 << 20  # elements on which the grids are compared
_DISTINCT_SAMPLE = 1 << 16  # elements in which distinct values are counted
_LEAST_ROWS = 64  # of a sample of whole rows
_TABLE_BYTES = 1.0  # about, in the coder's table, for each level
_ALIKE = 1.1  # times the error of a uniform grid, which k-means levels may have
_LEVEL_ROUNDING = 2.0**-25  # mean square of a rounding to float16
_LEAST_ERROR = 1e-14


@dataclass(frozen=True)
class _Choice:
    """A grid, None for k-means, and what it costs: bits a value at the same error."""

    grid: UniformGrid | None
    cost: float


def quantize_tensor(
    name: str,
    values: NDArray[Any],
    dtype: str,
    bits: int,
    grid: Grid = "auto",
    *,
    threads: int | None = None,
) -> UncodedTensor | None:
    """Quantize a tensor to about ``bits`` bits a value; zeros stay zeros.

    Args:
        name: of the tensor.
        values: of the carrier of ``dtype``, at least one-dimensional.
        dtype: one of `QUANTIZED_DTYPES`.
        bits: 1 to 8.
        grid: "kmeans" for 2^bits levels, "uniform" for multiples of a step of that precision, the
            same for all or scaled for each row, or "auto" for the smallest of them all at the same
            error.
        threads: to work on; None for one a core.

    Returns:
        Symbols and levels, to be encoded; None if the tensor holds NaN or infinity, or nothing but
        zeros.
    """
    matrix = as_rows(values)
    statistics = row_statistics(matrix, dtype, threads)
    if statistics is None:
        return None
    choices = _choices(matrix, dtype, statistics, bits, grid)
    for choice in sorted(choices, key=lambda choice: choice.cost):
        if choice.grid is not None:
            tensor = _uniform(name, values, dtype, choice.grid, statistics, threads)
            if tensor is not None:
                return tensor
        else:
            break
    clusters = histogram_kmeans(values, dtype, bits, threads)
    symbols = histogram_symbols(values, clusters, threads)
    levels = _carried(clusters.centroids, dtype)
    return prepare_shared(name, symbols, levels=levels, dtype=dtype)


def _uniform(
    name: str,
    values: NDArray[Any],
    dtype: str,
    grid: UniformGrid,
    statistics: RowStatistics,
    threads: int | None,
) -> UncodedTensor | None:
    matrix = as_rows(values)
    found = tally(matrix, dtype, grid, statistics.rms, threads)
    if found is None:
        return None
    made = to_levels(matrix, dtype, grid, found, threads)
    if made is None:
        return None
    tables = [table for table in (made.levels, made.scales) if table is not None]
    if not all(_rounded(table, dtype).isfinite().all() for table in tables):
        return None
    return prepare_shared(
        name,
        made.symbols.reshape(values.shape),
        levels=_carried(made.levels, dtype),
        scales=None if made.scales is None else _carried(made.scales, dtype),
        dtype=dtype,
    )


def _rounded(values: NDArray[Any], dtype: str) -> torch.Tensor:
    return torch.from_numpy(values).to(getattr(torch, dtype))


def _carried(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    rounded = _rounded(values, dtype)
    carried = rounded.view(torch.uint16) if dtype == "bfloat16" else rounded
    array: NDArray[Any] = carried.numpy()
    return array


def _choices(
    matrix: NDArray[Any], dtype: str, statistics: RowStatistics, bits: int, grid: Grid
) -> list[_Choice]:
    """Compare the grids on a sample of the tensor."""
    if grid == "kmeans":
        return [_Choice(None, 0.0)]
    grids = uniform_grids(statistics, bits)
    if grid == "uniform" and len(grids) == 1:
        return [_Choice(grids[0], 0.0)]
    places = _sampled(matrix.shape)
    sample = np.ascontiguousarray(matrix[places])
    rms = statistics.rms[places[0]]
    density = nonzero_count(sample, dtype) / max(1, sample.size)
    share = sample.size / matrix.size
    item = 2 if dtype != "float32" else 4
    choices: list[_Choice] = []
    most = float("inf")
    for one in grids:
        steps = UniformGrid(one.steps[places[0]] if one.scaled else one.steps, one.scaled)
        found = tally(sample, dtype, steps, rms)
        if found is not None:
            own = found.counts.size * (2 + _TABLE_BYTES) + (2 * one.steps.size if one.scaled else 0)
            coded = entropy(found.counts) / 8 / share + own
            error = found.error + density * _LEVEL_ROUNDING
            choices.append(_Choice(one, _cost(coded, error, density, matrix.size)))
            most = _ALIKE * error  # of the last grid, that of rows if they have scales
    if grid == "auto":
        few = distinct_words(sample.ravel()[:_DISTINCT_SAMPLE], 1 << bits) is not None
        if bits <= _MOST_BITS_OF_KMEANS or few:
            coded, error = _kmeans_bytes(sample, dtype, bits, rms)
            coded = coded / share + (1 << bits) * (item + _TABLE_BYTES)
            if error <= most:
                choices.append(_Choice(None, _cost(coded, error, density, matrix.size)))
    return choices


def _sampled(shape: tuple[int, ...]) -> tuple[slice, slice]:
    rows, columns = shape
    stride = -(-rows * columns // _SAMPLE)
    if rows // stride >= _LEAST_ROWS:
        return slice(None, None, stride), slice(None)
    return slice(None), slice(None, None, stride)


def _cost(coded: float, error: float, density: float, size: int) -> float:
    """Return bits a value; each halving of the error of the nonzero values is worth one bit."""
    relative = max(error / max(density, 1e-9), _LEAST_ERROR)
    return 8 * coded / size + 0.5 * density * float(np.log2(relative))


def _kmeans_bytes(
    sample: NDArray[Any], dtype: str, bits: int, rms: NDArray[np.float64]
) -> tuple[float, float]:
    if not nonzero_count(sample, dtype):
        return 0.0, 0.0
    clusters = histogram_kmeans(sample, dtype, bits)
    levels = np.concatenate([[0.0], clusters.centroids]).astype(np.float32)
    squares = np.empty(sample.shape[0])
    _native.bin_errors(sample, DTYPES.index(dtype), levels[clusters.table], squares)
    squares /= np.where(rms > 0, np.square(rms), np.inf)
    return entropy(clusters.counts) / 8, float(squares.sum()) / sample.size
