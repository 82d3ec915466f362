"""Exact one-dimensional k-means, in memory linear in the number of values."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from flyweight import _native
from flyweight.errors import ModelError

__all__ = ["LEAST_SHARE", "exact_kmeans_edges"]

Array = NDArray[np.float64]
Edges = NDArray[np.int64]

# Of the sum of all weights; smaller ones vanish in sums of float64.
LEAST_SHARE = 1e-14
_MOST = 2**31 - 2  # points
_COARSE = (4096, 65_536)  # positions at which clusters may begin while the penalty is searched


def exact_kmeans_edges(points: Array, weights: Array, clusters: int) -> Edges:
    """Find the clusters of least weighted squared error.

    Costs O(n log n) whatever k, and 44 bytes a point.

    Args:
        points: (n,) distinct values, ascending, finite.
        weights: (n,) count of each, above 0; less than 1e-14 of their sum counts as that.
        clusters: k, from 1 to n.

    Returns:
        k + 1 ascending positions: cluster c is ``points[edges[c] : edges[c + 1]]``. No clustering
        has a smaller error, up to the rounding of float64.

    Raises:
        ModelError: there are fewer points than clusters, or 2^31 points.

    Example:
        >>> exact_kmeans_edges(np.array([0.0, 1.0, 5.0, 7.0]), np.ones(4), 2).tolist()
        [0, 2, 4]

    Sources: the clusters at a penalty for each are a concave least-weight subsequence (Wilber 1988,
    by the queue of Hirschberg & Larmore 1987); the penalty that gives k of them, and the splice of
    two solutions if none does, are after Aggarwal, Schieber & Tokuyama 1994.
    """
    if not 1 <= clusters <= points.size < _MOST:
        raise ModelError(f"{points.size} distinct values cannot make {clusters} clusters")
    share = np.maximum(weights / weights.mean(), LEAST_SHARE * weights.size)
    centered = points - np.average(points, weights=share)
    widest = float(np.abs(centered).max()) or 1.0
    centered = centered / widest  # squares neither overflow nor vanish
    sums = np.concatenate([[0.0], np.cumsum(centered * share)])
    totals = np.concatenate([[0.0], np.cumsum(share)])
    n = points.size
    penalty = 1.0
    for size in (size for size in _COARSE if n > 4 * size and size > 8 * clusters):
        places = np.linspace(0, n, size + 1).astype(np.int64)
        some, weights = sums[places], totals[places]
        fewer, more = (_gain(some, weights, clusters + change, penalty) for change in (-1, 1))
        if more > fewer:
            penalty = (more - fewer) / 2  # what a cluster more gains, at about k of them
    return _search(sums, totals, clusters, penalty)


def _gain(sums: Array, totals: Array, clusters: int, penalty: float) -> float:
    edges = _search(sums, totals, clusters, penalty)
    return float((np.diff(sums[edges]) ** 2 / np.diff(totals[edges])).sum())


def _search(sums: Array, totals: Array, clusters: int, penalty: float) -> Edges:
    """The solution with so many clusters, by bisection of the penalty from a first guess on."""
    n = sums.size - 1
    room, workspace = np.empty(n + 1, dtype=np.int64), np.empty(5 * (n + 2) // 2)
    fewer, high = np.array([0, n]), math.inf
    more, low = np.arange(n + 1), 0.0
    factor = 1.05
    while fewer.size - 1 < clusters < more.size - 1 and low < penalty < high:
        found = _native.cheapest_clusters(sums, totals, penalty, workspace, room)
        edges = room[n + 1 - found :].copy()
        if edges.size - 1 <= clusters:
            fewer, high = edges, penalty
        if edges.size - 1 >= clusters:
            more, low = edges, penalty
        if low and high < math.inf:
            penalty = math.sqrt(low) * math.sqrt(high)
        else:
            penalty = penalty / factor if high < math.inf else penalty * factor
            factor *= factor  # at last infinite, which ends the search
    return _splice(fewer, more, clusters)


def _splice(fewer: Edges, more: Edges, clusters: int) -> Edges:
    """A solution with so many clusters from two of one penalty, with fewer and with more.

    If a cluster of one contains a cluster of the other, and their numbers differ by what is
    missing, the beginning of one joins the end of the other; that loses nothing, since the gain is
    inverse Monge.
    """
    extra = clusters - (fewer.size - 1)
    if not extra:
        return fewer
    for place in range(fewer.size - 1):
        begin, end = more[place + extra], more[place + extra + 1]
        if fewer[place] <= begin and end <= fewer[place + 1]:
            return np.concatenate([more[: place + extra + 1], fewer[place + 1 :]])
    raise AssertionError("two optimal clusterings of one penalty can always be spliced")
