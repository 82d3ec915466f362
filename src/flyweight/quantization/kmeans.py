"""One-dimensional k-means by Lloyd's algorithm, from several initializations."""

from __future__ import annotations

import torch
from torch import Tensor

from flyweight.errors import ModelError
from flyweight.quantization.exact_kmeans import LEAST_SHARE
from flyweight.quantization.kmeans_initialization import Initialization, initial_centroids

__all__ = ["kmeans_1d", "nearest"]


def kmeans_1d(
    values: Tensor,
    clusters: int,
    *,
    init: Initialization = "linear",
    iterations: int = 300,
    weights: Tensor | None = None,
    seed: int = 0,
) -> Tensor:
    """Cluster numbers by Lloyd's algorithm.

    Works in float64 on sorted values, where a cluster is an interval, so that a round costs
    O(clusters · log n).

    Empty clusters are re-seeded: in each round that has any, the first of them moves to the value
    that is farthest from its centroid, which costs O(n). A plain Lloyd's algorithm leaves them
    empty and ends with fewer clusters; so results of "linear", which often starts with empty
    clusters, differ from it. Re-seeding may take some hundreds of rounds, and ``iterations`` caps
    all rounds: raise it where convergence matters more than time.

    Args:
        values: 1-D, of any float type.
        clusters: at least 1.
        init: initial centroids. "linear" spreads them evenly from the least to the largest value,
            "density" puts them at evenly spaced quantiles, "random" at distinct values drawn by
            their counts, "k-means++" far from one another. "optimal" is the global optimum, where
            Lloyd's algorithm has nothing to do.
        iterations: maximum number of rounds.
        weights: count of each value, 0 or more; default: 1. Counts above 0 and below 1e-14 of
            their sum count as that.
        seed: of the initializations that are drawn.

    Returns:
        Ascending centroids, at most ``clusters``; the distinct values if there are no more of them.

    Raises:
        ModelError: there is less than one cluster, no value, or one that is not finite.

    Example:
        >>> kmeans_1d(torch.tensor([0.0, 0.5, 4.0, 4.5]), 2).tolist()
        [0.25, 4.25]

    Sources: Lloyd 1982; initializations after Han et al. 2016, "Deep compression", §3.2, and
    Arthur & Vassilvitskii 2007, "k-means++"; the optimum as in `exact_kmeans_edges`.
    """
    if clusters < 1:
        raise ModelError(f"k-means needs at least one cluster; found {clusters}")
    if values.numel() == 0:
        raise ModelError("there are no values to cluster; every weight of the tensor is zero")
    ordered, order = values.detach().flatten().double().sort()
    if not bool(torch.isfinite(ordered).all()):
        raise ModelError("weights hold NaN or infinity and cannot be clustered; repair them")
    counted = _counts(weights, ordered, order)
    if weights is not None:
        ordered, counted = ordered[counted > 0], counted[counted > 0]
    distinct: Tensor = torch.unique_consecutive(ordered)
    if distinct.numel() <= clusters:
        return distinct.to(values.dtype)

    start = ordered.new_zeros(1)
    totals = torch.cat([start, counted.cumsum(0)])
    sums = torch.cat([start, (ordered * counted).cumsum(0)])
    centroids = initial_centroids(ordered, counted, clusters, init=init, seed=seed)
    for _ in range(0 if init == "optimal" else iterations):
        edges = _edges(ordered, centroids)
        counts = totals[edges[1:]] - totals[edges[:-1]]
        means = (sums[edges[1:]] - sums[edges[:-1]]) / counts
        # The sums of a cluster that hardly counts are rough; its mean is among its values.
        least = ordered[edges[:-1].clamp(max=ordered.numel() - 1)]
        means = means.clamp(least, ordered[(edges[1:] - 1).clamp(min=0)])
        updated = torch.where(counts > 0, means, centroids)
        if bool((counts == 0).any()):
            updated = _refill(ordered, updated, counts)
        if torch.equal(updated, centroids):
            break
        centroids = updated
    merged: Tensor = torch.unique_consecutive(centroids.to(values.dtype))  # rounding may unite two
    return merged


def _counts(weights: Tensor | None, ordered: Tensor, order: Tensor) -> Tensor:
    """Count of each of the sorted values, in float64."""
    if weights is None:
        return torch.ones_like(ordered)
    if weights.numel() != ordered.numel():
        raise ModelError(f"{ordered.numel()} values have {weights.numel()} weights; give one each")
    counted = weights.detach().flatten().double()[order]
    if not bool((counted >= 0).all() & torch.isfinite(counted).all()) or not bool(counted.any()):
        raise ModelError("weights of values are finite, 0 or more, and not all 0")
    least = LEAST_SHARE * counted.sum()
    return torch.where(counted > 0, counted.clamp(min=least), counted)


def _edges(ordered: Tensor, centroids: Tensor) -> Tensor:
    middles = (centroids[1:] + centroids[:-1]) / 2
    inner = torch.searchsorted(ordered, middles, right=True)  # a tie goes to the lower one
    ends = inner.new_tensor([0, ordered.numel()])
    return torch.cat([ends[:1], inner, ends[1:]])


def _refill(ordered: Tensor, centroids: Tensor, counts: Tensor) -> Tensor:
    """Move one empty centroid to the value farthest from its own centroid."""
    filled = centroids[counts > 0]
    own = filled[nearest(ordered, filled)]
    farthest = ordered[(ordered - own).abs().argmax()]
    centroids = centroids.clone()
    centroids[(counts == 0).nonzero()[0]] = farthest
    return centroids.sort().values


def nearest(values: Tensor, centroids: Tensor) -> Tensor:
    """Return the index (int64) of the nearest of ascending centroids; the lower one on a tie.

    Both are of any float type; midpoints of centroids are computed in float64.

    Example:
        >>> nearest(torch.tensor([0.4, 0.6]), torch.tensor([0.0, 1.0]))
        tensor([0, 1])
    """
    exact = centroids.double()
    return torch.searchsorted((exact[1:] + exact[:-1]) / 2, values.double())
