"""Initial centroids of one-dimensional k-means."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from flyweight.errors import ModelError
from flyweight.quantization.exact_kmeans import exact_kmeans_edges

__all__ = ["INITIALIZATIONS", "Initialization", "initial_centroids"]

#: Initialization of k-means.
Initialization = Literal["linear", "density", "random", "k-means++", "optimal"]
#: The names of `Initialization`.
INITIALIZATIONS: tuple[str, ...] = get_args(Initialization)


def initial_centroids(
    ordered: Tensor, counts: Tensor, clusters: int, *, init: Initialization, seed: int
) -> Tensor:
    """Choose the initial centroids.

    "random" and "k-means++" are drawn on the CPU from ``seed``, the same for any order and device
    of the weights.

    Args:
        ordered: ascending values, 1-D float64, with more distinct ones than clusters.
        counts: of each value, above 0, float64.
        clusters: number of centroids.
        init: as of `kmeans_1d`.
        seed: of what is drawn.

    Returns:
        Ascending centroids.

    Raises:
        ModelError: the initialization is unknown.

    Example:
        >>> values = torch.tensor([0.0, 1.0, 4.0], dtype=torch.float64)
        >>> initial_centroids(values, torch.ones_like(values), 2, init="linear", seed=0).tolist()
        [0.0, 4.0]
    """
    if init == "linear":
        share_of_range = torch.linspace(0, 1, clusters, dtype=torch.float64, device=ordered.device)
        return ordered[0] + share_of_range * (ordered[-1] - ordered[0])
    if init == "density":
        totals = counts.cumsum(0)
        quantiles = (torch.arange(clusters, device=ordered.device) * 2 + 1) / (2 * clusters)
        places = torch.searchsorted(totals, quantiles.double() * totals[-1], right=True)
        return ordered[places.clamp(max=ordered.numel() - 1)]
    if init not in INITIALIZATIONS:
        raise ModelError(f"init {init!r} is unknown; choose one of {', '.join(INITIALIZATIONS)}")
    points, places = torch.unique_consecutive(ordered.cpu(), return_inverse=True)
    weights = torch.zeros_like(points).index_add_(0, places, counts.cpu())
    if init == "optimal":
        edges = torch.from_numpy(exact_kmeans_edges(points.numpy(), weights.numpy(), clusters))
        cluster = torch.bucketize(torch.arange(points.numel()), edges[1:], right=True)
        sums, totals = (
            torch.zeros(clusters, dtype=torch.float64).index_add_(0, cluster, some)
            for some in (points * weights, weights)
        )
        return (sums / totals).to(ordered.device)
    generator = torch.Generator().manual_seed(seed)
    draw = _drawn if init == "random" else _far_apart
    drawn: Tensor = points[draw(points, weights, clusters, generator)].sort().values
    return drawn.to(ordered.device)


def _drawn(points: Tensor, weights: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """Indices drawn by weight without replacement: first arrivals at the rates of the weights."""
    uniform = torch.rand(points.numel(), generator=generator, dtype=torch.float64)
    return (uniform.log() / weights).topk(clusters).indices


def _far_apart(
    points: Tensor, weights: Tensor, clusters: int, generator: torch.Generator
) -> Tensor:
    """Indices drawn one by one, by weight times squared distance to the nearest one before."""
    chosen: list[int] = []
    distance = torch.ones_like(points)
    for _ in range(clusters):
        mass = (weights * distance).cumsum(0)
        drawn = torch.rand(1, generator=generator, dtype=torch.float64) * mass[-1]
        place = int(torch.searchsorted(mass, drawn, right=True).clamp(max=points.numel() - 1))
        chosen.append(place)
        apart = (points - points[place]).square()
        distance = apart if len(chosen) == 1 else torch.minimum(distance, apart)
    return torch.tensor(chosen)
