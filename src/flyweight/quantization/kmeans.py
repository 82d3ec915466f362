"""Weight sharing: one-dimensional k-means over the non-zero weights of a tensor."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from flyweight.compressed import CompressedTensor
from flyweight.errors import ModelError

__all__ = ["Initialization", "kmeans_1d", "share"]

Initialization = Literal["linear", "density"]


def kmeans_1d(
    values: Tensor,
    clusters: int,
    *,
    init: Initialization = "linear",
    iterations: int = 300,
    weights: Tensor | None = None,
) -> Tensor:
    """Lloyd's algorithm on a line: the centroids, ascending, at most ``clusters`` of them.

    ``values`` is 1-D, of any float type; the work is done in float64 on sorted values, where a
    cluster is an interval, so that a round costs O(clusters · log n). ``init`` "linear" spreads
    the first centroids evenly from the least to the largest value, "density" puts them at evenly
    spaced quantiles. A centroid that loses all its values moves to the value farthest from its
    own. With no more distinct values than clusters, the distinct values are returned. ``weights``
    says how often each value counts (n numbers above 0; None: once).

    Raises ModelError for fewer than one cluster, no values, or values that are not finite.

    Example:
        >>> kmeans_1d(torch.tensor([0.0, 0.5, 4.0, 4.5]), 2).tolist()
        [0.25, 4.25]

    Source: Lloyd 1982; initialisations after Han et al. 2016, "Deep compression", §3.2.
    """
    if clusters < 1:
        raise ModelError(f"k-means needs at least one cluster; {clusters} were asked for")
    if values.numel() == 0:
        raise ModelError("k-means was given no values; every weight of the tensor is zero")
    ordered, order = values.detach().flatten().double().sort()
    if not bool(torch.isfinite(ordered).all()):
        raise ModelError("weights hold NaN or infinity and cannot be clustered")
    distinct: Tensor = torch.unique_consecutive(ordered)
    if distinct.numel() <= clusters:
        return distinct.to(values.dtype)

    counted = torch.ones_like(ordered) if weights is None else weights.flatten().double()[order]
    start = ordered.new_zeros(1)
    totals = torch.cat([start, counted.cumsum(0)])
    sums = torch.cat([start, (ordered * counted).cumsum(0)])
    if init == "linear":
        share_of_range = torch.linspace(0, 1, clusters, dtype=torch.float64, device=values.device)
        centroids = ordered[0] + share_of_range * (ordered[-1] - ordered[0])
    elif init == "density":
        quantiles = (torch.arange(clusters, device=values.device) * 2 + 1) / (2 * clusters)
        places = torch.searchsorted(totals[1:], quantiles.double() * totals[-1], right=True)
        centroids = ordered[places.clamp(max=ordered.numel() - 1)]
    else:
        raise ModelError(f"init {init!r} is unknown; choose 'linear' or 'density'")
    for _ in range(iterations):
        edges = _edges(ordered, centroids)
        counts = totals[edges[1:]] - totals[edges[:-1]]
        means = (sums[edges[1:]] - sums[edges[:-1]]) / counts
        updated = torch.where(counts > 0, means, centroids)
        if bool((counts == 0).any()):
            updated = _refill(ordered, updated, counts)
        if torch.equal(updated, centroids):
            break
        centroids = updated
    merged: Tensor = torch.unique_consecutive(centroids.to(values.dtype))  # rounding may unite two
    return merged


def _edges(ordered: Tensor, centroids: Tensor) -> Tensor:
    middles = (centroids[1:] + centroids[:-1]) / 2
    inner = torch.searchsorted(ordered, middles, right=True)  # a draw goes to the lower one
    ends = inner.new_tensor([0, ordered.numel()])
    return torch.cat([ends[:1], inner, ends[1:]])


def _refill(ordered: Tensor, centroids: Tensor, counts: Tensor) -> Tensor:
    """Move one empty centroid to the value farthest from its own centroid."""
    filled = centroids[counts > 0]
    nearest = filled[_nearest(ordered, filled)]
    farthest = ordered[(ordered - nearest).abs().argmax()]
    centroids = centroids.clone()
    centroids[(counts == 0).nonzero()[0]] = farthest
    return centroids.sort().values


def _nearest(values: Tensor, centroids: Tensor) -> Tensor:
    """Index of the nearest of ascending centroids; the lower one on a draw."""
    return torch.searchsorted((centroids[1:] + centroids[:-1]) / 2, values)


def share(
    weight: Tensor, *, bits: int, init: Initialization = "linear", mask: Tensor | None = None
) -> CompressedTensor:
    """Let the non-zero weights of a tensor share at most 2^bits values; zeros stay exactly zero.

    ``mask`` (bool, the shape of ``weight``, True = kept) says which weights are pruned; without
    one, those equal to zero are. ``bits`` is from 1 to 8.

    Raises ModelError for bits outside 1…8, a mask of another shape, or weights not finite.

    Example:
        >>> share(torch.tensor([0.0, 1.0, 1.5, -3.0]), bits=1).dequantize().tolist()
        [0.0, 1.25, 1.25, -3.0]

    Source: Han et al. 2016, "Deep compression", §3.
    """
    if not 1 <= bits <= 8:
        raise ModelError(f"weight sharing takes 1 to 8 bits; {bits} were asked for")
    if mask is not None and mask.shape != weight.shape:
        raise ModelError(f"the mask has shape {tuple(mask.shape)}, not {tuple(weight.shape)}")
    weight = weight.detach()
    if not bool(torch.isfinite(weight).all()):
        raise ModelError("weights hold NaN or infinity and cannot be clustered")
    kept = weight != 0 if mask is None else mask & (weight != 0)
    symbols = torch.zeros(weight.shape, dtype=torch.int32, device=weight.device)
    if not bool(kept.any()):
        return CompressedTensor(symbols, weight.new_zeros(0))
    levels = kmeans_1d(weight[kept], 2**bits, init=init)
    symbols[kept] = (_nearest(weight[kept], levels) + 1).to(torch.int32)
    return CompressedTensor(symbols, levels)
