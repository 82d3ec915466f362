"""Quantize a large float tensor by k-means on a histogram.

The histogram is of the first 16 bits of the values. For 16-bit floats these are all values there
are; a float32 is resolved to 0.8 %, while the centroids are exact means.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flyweight.coding.numba_choice import loops_for
from flyweight.quantization import kmeans_1d

__all__ = ["KMEANS_DTYPES", "histogram_kmeans", "histogram_symbols"]

KMEANS_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
_BLOCK = 1 << 21
_BINS = 1 << 16

Bins = tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]


def histogram_kmeans(
    values: NDArray[Any], dtype: str, bits: int
) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Find at most 2^bits centroids of the nonzero values.

    Args:
        values: finite, not all zero, of the carrier of ``dtype``.
        dtype: one of `KMEANS_DTYPES`.
        bits: 1 to 8.

    Returns:
        The centroids, ascending, and the symbol of each of the 65,536 bins: 0 for zero, k for the
        k-th centroid from 1.
    """
    points, counts, used = _histogram(values, dtype)
    if points.size <= 1 << bits:
        order = np.argsort(points)
        centroids, symbols = points[order], np.argsort(order) + 1
    else:
        found = kmeans_1d(
            torch.from_numpy(points), 1 << bits, init="density", weights=torch.from_numpy(counts)
        )
        centroids = found.numpy()
        symbols = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, points) + 1
    table = np.zeros(_BINS, dtype=np.uint8 if centroids.size < 256 else np.uint16)
    table[used] = symbols
    return centroids, table


def histogram_symbols(values: NDArray[Any], dtype: str, table: NDArray[Any]) -> NDArray[Any]:
    """Look up the symbols of all values in the table of `histogram_kmeans`."""
    keys = _keys(values.ravel(), dtype)
    kernels = loops_for("flyweight.checkpoints.numba_histogram", keys.size)
    symbols = np.empty(keys.size, dtype=table.dtype)
    if kernels is not None:
        kernels.look_up(keys, table, symbols)
    for block in _blocks(keys.size) if kernels is None else ():
        np.take(table, keys[block], out=symbols[block])
    return symbols.reshape(values.shape)


def _histogram(values: NDArray[Any], dtype: str) -> Bins:
    """Return the mean of each bin in use but those of zero, its count and its place."""
    flat = values.ravel()
    keys = _keys(flat, dtype)
    kernels = loops_for("flyweight.checkpoints.numba_histogram", keys.size)
    counts = np.zeros(_BINS, dtype=np.int64)
    sums = np.zeros(_BINS)
    if kernels is not None:
        kernels.count(keys, counts)
    for block in _blocks(keys.size):
        if kernels is None:
            counts += np.bincount(keys[block], minlength=_BINS)
        if dtype == "float32":
            sums += np.bincount(keys[block], weights=flat[block], minlength=_BINS)
    if dtype == "float32":
        means = sums / np.maximum(counts, 1)
    else:
        every = torch.arange(_BINS, dtype=torch.int32).to(torch.uint16).view(KMEANS_DTYPES[dtype])
        means = every.double().numpy()
    means[[0, _BINS // 2]] = 0.0  # zeros, and float32 below 1e-40
    used = np.flatnonzero(counts)
    used = used[means[used] != 0]
    return means[used], counts[used], used


def _blocks(size: int) -> Iterator[slice]:
    return (slice(start, min(start + _BLOCK, size)) for start in range(0, size, _BLOCK))


def _keys(flat: NDArray[Any], dtype: str) -> NDArray[np.uint16]:
    """Return the sign, the exponent and the first bits of the mantissa of each value."""
    if dtype == "float32":
        halves: NDArray[np.uint16] = np.ascontiguousarray(flat).view("<u2")[1::2]
        return halves
    return np.ascontiguousarray(flat).view("<u2")
