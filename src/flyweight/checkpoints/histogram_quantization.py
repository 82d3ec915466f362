"""A large float tensor as few values, by k-means or on a uniform grid.

The work is done on a histogram of the first 16 bits of the values: for 16-bit floats those are all
values there are, and a float32 is told from its neighbours to 0.8 %, while the centroids are exact
means.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from flyweight.coding import CodedTensor, Effort, encode_shared
from flyweight.coding.numba_choice import loops_for
from flyweight.quantization import kmeans_1d

__all__ = ["FLOATS", "Grid", "quantized"]

Grid = Literal["kmeans", "uniform"]

FLOATS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
_BLOCK = 1 << 21


def quantized(
    name: str, values: NDArray[Any], dtype: str, bits: int, grid: Grid, effort: Effort
) -> CodedTensor | None:
    """The tensor with 2^bits values, or None if it holds NaN or infinity."""
    keys = _keys(values.ravel(), dtype)
    kernels = loops_for("flyweight.checkpoints.numba_histogram", keys.size)
    counts = np.zeros(1 << 16, dtype=np.int64)
    sums = np.zeros(1 << 16)
    if kernels is not None:
        kernels.count(keys, counts)
    for block in _blocks(keys.size):
        if kernels is None:
            counts += np.bincount(keys[block], minlength=1 << 16)
        if dtype == "float32":
            sums += np.bincount(keys[block], weights=values.ravel()[block], minlength=1 << 16)
    if dtype == "float32":
        means = sums / np.maximum(counts, 1)
    else:
        every = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(FLOATS[dtype])
        means = every.double().numpy()
    means[[0, 0x8000]] = 0.0  # zeros, and float32 below 1e-40
    used = np.flatnonzero(counts)
    if not np.isfinite(means[used]).all():
        return None
    used = used[means[used] != 0]
    if not used.size:
        return None
    points, weights = means[used], counts[used]
    centroids = _kmeans(points, weights, bits) if grid == "kmeans" else None
    levels, symbols_of_points = (
        _nearest(points, centroids) if centroids is not None else _uniform(points, weights, bits)
    )
    table = np.zeros(1 << 16, dtype=np.uint8 if levels.size < 256 else np.uint16)
    table[used] = symbols_of_points
    symbols = np.empty(keys.size, dtype=table.dtype)
    if kernels is not None:
        kernels.look_up(keys, table, symbols)
    for block in _blocks(keys.size) if kernels is None else ():
        np.take(table, keys[block], out=symbols[block])
    del keys
    rounded = torch.from_numpy(levels).to(FLOATS[dtype])
    carried = rounded.view(torch.uint16) if dtype == "bfloat16" else rounded
    return encode_shared(
        name, symbols.reshape(values.shape), levels=carried.numpy(), dtype=dtype, effort=effort
    )


def _blocks(size: int) -> Iterator[slice]:
    return (slice(start, min(start + _BLOCK, size)) for start in range(0, size, _BLOCK))


def _keys(flat: NDArray[Any], dtype: str) -> NDArray[np.uint16]:
    """The sign, the exponent and the first bits of the mantissa of each value."""
    if dtype == "float32":
        halves: NDArray[np.uint16] = flat.view("<u2")[1::2]
        return halves
    return flat.view("<u2")


def _kmeans(points: NDArray[Any], weights: NDArray[Any], bits: int) -> NDArray[np.float64]:
    values = torch.from_numpy(points)
    found = kmeans_1d(values, 1 << bits, init="density", weights=torch.from_numpy(weights))
    centroids: NDArray[np.float64] = found.numpy()
    return centroids


def _nearest(
    points: NDArray[Any], centroids: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    places = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, points)
    return centroids, places + 1


def _uniform(
    points: NDArray[Any], weights: NDArray[Any], bits: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Multiples of the step that leaves the least square error; 0 is one of them."""
    most = 2 ** (bits - 1) - 1 if bits > 1 else 1
    widest = float(np.abs(points).max()) / most
    best: tuple[float, float] | None = None
    for step in widest * np.linspace(1, 0.05, 39):
        error = points - step * np.clip(np.rint(points / step), -most, most)
        cost = float(weights @ error**2)
        if best is None or cost < best[0]:
            best = (cost, float(step))
    assert best is not None
    places = np.clip(np.rint(points / best[1]), -most, most).astype(np.int64)
    present = np.unique(places[places != 0])
    symbols = np.where(places == 0, 0, np.searchsorted(present, places) + 1)
    return best[1] * present, symbols
