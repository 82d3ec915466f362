"""Weight sharing while a model trains: the centroids are trained."""

from __future__ import annotations

import torch
from torch import Tensor

from flyweight.compressed import CompressedTensor
from flyweight.modules import WeightParametrization, straight_through
from flyweight.quantization.kmeans import nearest

__all__ = ["KMeansWeight"]


def _cluster_means(
    weight: Tensor, symbols: Tensor, clusters: int, importance: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Mean (0 if it is empty) and number of weights of each cluster from 1 on."""
    flat = symbols.flatten()
    # In float64: a sum of a million weights loses a hundredth in float32 and overflows float16.
    exact = weight.flatten().double()
    counts = amounts = torch.bincount(flat, minlength=clusters + 1)
    if importance is not None:
        amount = importance.flatten().double()
        exact = exact * amount
        amounts = exact.new_zeros(clusters + 1).scatter_add_(0, flat, amount)
    sums = exact.new_zeros(clusters + 1).scatter_add_(0, flat, exact)
    means = sums / torch.where(counts > 0, amounts, 1)
    return means[1:].to(weight.dtype), counts[1:]


class KMeansWeight(WeightParametrization):
    """Replace each weight by the mean of its cluster, so that the centroids are trained.

    The optimizer trains the float weight, which gets the gradient of its centroid (straight
    through). A centroid so moves by the mean gradient of its weights; one that is a parameter, as
    in Han et al. 2016, §3.3, moves by their sum, at a rate that grows with the cluster.
    `reassign_` moves weights to other clusters. Symbol 0 is always exactly 0.

    Args:
        symbols: integers of the shape of the weight: 0 for pruned weights, k ≥ 1 for cluster k.
        clusters: number of clusters.
        importance: factors above 0 of each weight in the mean of its cluster, of that shape;
            default: all the same.

    Example:
        >>> weight = torch.tensor([0.5, 1.0, 3.0, 7.0])
        >>> KMeansWeight(torch.tensor([1, 2, 2, 0]), clusters=2)(weight).tolist()
        [0.5, 2.0, 2.0, 0.0]

    Sources: Han et al. 2016, "Deep compression", §3.3; Bengio et al. 2013 (straight through).
    """

    symbols: Tensor
    importance: Tensor | None

    def __init__(self, symbols: Tensor, clusters: int, importance: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("symbols", symbols.long())
        self.register_buffer("importance", importance)
        self.clusters = clusters

    def _means(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return _cluster_means(weight, self.symbols, self.clusters, self.importance)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the quantized weight."""
        with torch.no_grad():
            means, _ = self._means(weight)
            values = torch.cat([means.new_zeros(1), means])[self.symbols]
        return straight_through(weight, values, self.symbols > 0)

    @torch.no_grad()
    def reassign_(self, weight: Tensor) -> None:
        """Assign each weight that is not pruned to its nearest centroid: one round of Lloyd's."""
        means, counts = self._means(weight)
        centroids = means[counts > 0].sort().values
        kept = self.symbols > 0
        self.symbols[kept] = nearest(weight[kept], centroids) + 1

    @torch.no_grad()
    def compressed(self, weight: Tensor) -> CompressedTensor:
        """Return the quantized weight as symbols and ascending levels, those in use."""
        means, counts = self._means(weight)
        used = (counts > 0).nonzero().flatten()
        used = used[means[used].argsort()]
        numbers = torch.zeros_like(counts, dtype=torch.int32)
        numbers[used] = torch.arange(1, used.numel() + 1, dtype=torch.int32, device=used.device)
        numbers = torch.cat([numbers.new_zeros(1), numbers])
        return CompressedTensor(numbers[self.symbols], means[used])
