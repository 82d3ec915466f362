"""Weight sharing while a network trains: the centroids learn."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flyweight.modules import WeightParametrization

from flyweight.compressed import CompressedTensor
from flyweight.modules.parametrize import straight_through
from flyweight.quantization.kmeans import nearest

__all__ = ["KMeansWeight"]


def _cluster_means(
    weight: Tensor, symbols: Tensor, clusters: int, importance: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Mean (0 where there is none) and count of the weights of each cluster from 1 on."""
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
    """The weight a layer sees is the mean of its cluster: the centroids are trained.

    The optimiser keeps the dense weight, which gets the gradient of the value seen (straight
    through; Bengio et al. 2013); a centroid so moves by the mean gradient of its weights, where one
    that is a parameter, as of Han et al. 2016, §3.3, moves by their sum: that way, at a rate that
    grows with the cluster. `reassign_` lets a weight that has moved join another cluster. Symbol 0
    is exactly 0 for ever.

    ``symbols`` are integers of the weight's shape: 0 is pruned, k ≥ 1 the cluster k of
    ``clusters``. ``importance``, numbers above 0 of that shape, says how much each weight counts in
    the mean (None: all the same).

    Example:
        >>> weight = torch.tensor([0.5, 1.0, 3.0, 7.0])
        >>> KMeansWeight(torch.tensor([1, 2, 2, 0]), clusters=2)(weight).tolist()
        [0.5, 2.0, 2.0, 0.0]
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
        with torch.no_grad():
            means, _ = self._means(weight)
            values = torch.cat([means.new_zeros(1), means])[self.symbols]
        return straight_through(weight, values, self.symbols > 0)

    @torch.no_grad()
    def reassign_(self, weight: Tensor) -> None:
        """Give each weight that is not pruned to the nearest centroid: one round of Lloyd's."""
        means, counts = self._means(weight)
        centroids = means[counts > 0].sort().values
        kept = self.symbols > 0
        self.symbols[kept] = nearest(weight[kept], centroids) + 1

    @torch.no_grad()
    def compressed(self, weight: Tensor) -> CompressedTensor:
        """What the layer sees, as symbols and ascending levels, as many as are in use."""
        means, counts = self._means(weight)
        used = (counts > 0).nonzero().flatten()
        used = used[means[used].argsort()]
        numbers = torch.zeros_like(counts, dtype=torch.int32)
        numbers[used] = torch.arange(1, used.numel() + 1, dtype=torch.int32, device=used.device)
        numbers = torch.cat([numbers.new_zeros(1), numbers])
        return CompressedTensor(numbers[self.symbols], means[used])
