"""Weight sharing: the non-zero weights of a tensor take the values of few centroids."""

from __future__ import annotations

import torch
from torch import Tensor

from flyweight.compressed import CompressedTensor
from flyweight.errors import ModelError
from flyweight.modules.selection import nonzero_mask
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
) -> CompressedTensor:
    """Let the non-zero weights of a tensor share at most 2^bits values; zeros stay exactly zero.

    Arguments:
        weight: of any shape and float type.
        bits: 1 to 8.
        init: where k-means begins, as for `kmeans_1d`; "optimal" has the least squared error.
        mask: bool, of the shape of ``weight``, True for what is kept. Without one, weights that
            are zero are pruned.
        weights: how much the error of each weight counts, of the shape of ``weight``, such as the
            `fisher_information` of the loss (None: all the same). A weight that counts nothing
            takes the nearest value all the same.
        seed: of the inits that are drawn.

    Raises ModelError for bits outside 1…8, a mask of another shape, or weights not finite.

    Example:
        >>> quantize_kmeans(torch.tensor([0.0, 1.0, 1.5, -3.0]), bits=1).dequantize().tolist()
        [0.0, 1.25, 1.25, -3.0]

    Sources: Han et al. 2016, "Deep compression", §3; weighted by Fisher information: Choi et al.
    2017, "Towards the limit of network quantization", §3.
    """
    if not 1 <= bits <= 8:
        raise ModelError(f"weight sharing takes 1 to 8 bits; {bits} were asked for")
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
    levels = kmeans_1d(weight[kept], 2**bits, init=init, weights=counts, seed=seed)
    symbols[kept] = (nearest(weight[kept], levels) + 1).to(torch.int32)
    return CompressedTensor(symbols, levels)
