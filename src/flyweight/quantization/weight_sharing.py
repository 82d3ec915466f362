"""Weight sharing: quantize the nonzero weights of a tensor to centroids of k-means."""

from __future__ import annotations

import torch
from torch import Tensor

from flyweight.compressed import CompressedTensor
from flyweight.errors import ModelError
from flyweight.modules import nonzero_mask
from flyweight.quantization.kmeans import kmeans_1d, nearest
from flyweight.quantization.kmeans_initialization import Initialization

__all__ = ["quantize_kmeans"]


def quantize_kmeans(
    weight: Tensor,
    *,
    bits: int,
    init: Initialization = "linear",
    mask: Tensor | None = None,
    weights: Tensor | None = None,
    seed: int = 0,
    iterations: int = 300,
) -> CompressedTensor:
    """Quantize a weight tensor by k-means weight sharing; zeros stay exactly zero.

    Args:
        weight: of any shape and float type.
        bits: 1 to 8; there are at most 2^bits levels.
        init: initialization of `kmeans_1d`; "optimal" has the least squared error.
        mask: bool, of the shape of ``weight``, True for weights that are not pruned; default: those
            that are not zero.
        weights: factors of the error of each weight, of the shape of ``weight``, such as the
            `fisher_information` of the loss; default: all the same. A weight with factor 0 takes
            the nearest level too.
        seed: of the initializations that are drawn.
        iterations: maximum number of rounds of `kmeans_1d`.

    Raises:
        ModelError: bits are out of range, the mask has another shape, or weights are not finite.

    Example:
        >>> quantize_kmeans(torch.tensor([0.0, 1.0, 1.5, -3.0]), bits=1).dequantize().tolist()
        [0.0, 1.25, 1.25, -3.0]

    Sources: Han et al. 2016, "Deep compression", §3; weighted by Fisher information: Choi et al.
    2017, "Towards the limit of network quantization", §3.
    """
    if not 1 <= bits <= 8:
        raise ModelError(f"k-means weight sharing takes 1 to 8 bits; found {bits}")
    weight = weight.detach()
    kept = nonzero_mask(weight, mask)
    if weights is not None and weights.shape != weight.shape:
        raise ModelError(
            f"the weights of the error have shape {tuple(weights.shape)}, not {tuple(weight.shape)}"
        )
    symbols = torch.zeros(weight.shape, dtype=torch.int32, device=weight.device)
    if not bool(kept.any()):
        return CompressedTensor(symbols, weight.new_zeros(0))
    counts = None if weights is None else weights[kept]
    levels = kmeans_1d(
        weight[kept], 2**bits, init=init, iterations=iterations, weights=counts, seed=seed
    )
    symbols[kept] = (nearest(weight[kept], levels) + 1).to(torch.int32)
    return CompressedTensor(symbols, levels)
