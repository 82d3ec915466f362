"""Quantize a large float tensor by k-means on a histogram.

The histogram is of the first 16 bits of the values. For 16-bit floats these are all values there
are; a float32 is resolved to 0.8 %, while the centroids are exact means.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flyweight import _native
from flyweight.coding.threads import in_threads
from flyweight.quantization import exact_kmeans_edges

__all__ = ["HistogramClusters", "histogram_kmeans", "histogram_symbols"]

_BLOCK = 1 << 21
_BINS = 1 << 16
_LOW_BITS = 40  # of a bin: the sum of the low halves of its values


@dataclass(frozen=True)
class HistogramClusters:
    """Clusters of the nonzero values of a tensor.

    Attributes:
        centroids: ascending.
        counts: of the zeros, and of the values of each cluster.
        table: symbol of each of the 65,536 bins: 0 for zero, k for the k-th centroid from 1.
    """

    centroids: NDArray[np.float64]
    counts: NDArray[np.int64]
    table: NDArray[np.uint16]


def histogram_kmeans(
    values: NDArray[Any], dtype: str, bits: int, threads: int | None = None
) -> HistogramClusters:
    """Find the at most 2^bits centroids of least squared error of the nonzero values.

    Args:
        values: finite, not all zero, of the carrier of ``dtype``.
        dtype: "float16", "bfloat16" or "float32".
        bits: 1 to 8.
        threads: to count on; None for one a core.
    """
    counts, points, places = _histogram(values, dtype, threads)
    order = np.argsort(points)
    counts, points, places = counts[order], points[order], places[order]
    weights = counts.astype(np.float64)
    edges = exact_kmeans_edges(points, weights, min(1 << bits, points.size))
    totals = np.add.reduceat(counts, edges[:-1])
    centroids = np.add.reduceat(points * weights, edges[:-1]) / totals
    table = np.zeros(_BINS, dtype=np.uint16)
    table[places] = np.repeat(np.arange(1, edges.size), np.diff(edges))
    return HistogramClusters(
        centroids, np.concatenate([[values.size - totals.sum()], totals]), table
    )


def histogram_symbols(
    values: NDArray[Any], clusters: HistogramClusters, threads: int | None = None
) -> NDArray[Any]:
    """Look up the symbols of all values, in their shape."""
    flat = values.ravel()
    symbols = np.empty(flat.size, np.uint8 if clusters.centroids.size < 256 else np.uint16)

    def look_up(block: slice) -> None:
        _native.bin_symbols(flat[block], flat.itemsize, clusters.table, symbols[block])

    in_threads(look_up, _blocks(flat.size), threads)
    return symbols.reshape(values.shape)


def _histogram(
    values: NDArray[Any], dtype: str, threads: int | None
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Return the count, the mean and the place of each bin in use but those of zero."""
    flat = values.ravel()
    counts, lows = np.zeros(_BINS, dtype=np.int64), np.zeros(_BINS, dtype=np.int64)

    def count(block: slice) -> NDArray[np.int64]:
        bins = np.empty(_BINS, dtype=np.int64)
        _native.histogram(flat[block], flat.itemsize, bins)
        return bins

    for bins in in_threads(count, _blocks(flat.size), threads):
        counts += bins >> _LOW_BITS
        lows += bins & ((1 << _LOW_BITS) - 1)
    counts[[0, _BINS // 2]] = 0  # zeros, and float32 below 1e-40
    used = np.flatnonzero(counts)
    keys = used.astype(np.uint32)
    if dtype == "float16":
        return counts[used], keys.astype(np.uint16).view(np.float16).astype(np.float64), used
    means = (keys << 16).view(np.float32).astype(np.float64)
    if dtype == "float32":  # whose values in a bin are evenly spaced
        spacing = (keys << 16 | 1).view(np.float32) - means
        means += spacing * (lows[used] / counts[used])
    return counts[used], means, used


def _blocks(size: int) -> Iterator[slice]:
    return (slice(start, min(start + _BLOCK, size)) for start in range(0, size, _BLOCK))
