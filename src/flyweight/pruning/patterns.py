"""Structured masks: N of M, blocks, filters, channels.

Weights are taken with outputs first, as linear layers and convolutions have them; for transposed
convolutions give ``layout=WeightLayout.of(layer)``.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from flyweight.errors import ModelError
from flyweight.modules import OUTPUTS_FIRST, WeightLayout
from flyweight.pruning.ranking import check_finite, check_fraction, keep_highest

__all__ = [
    "block_extents",
    "block_mask",
    "channel_mask",
    "filter_mask",
    "from_blocks",
    "n_of_m_mask",
    "to_blocks",
]


def n_of_m_mask(weight: Tensor, n: int, m: int, *, dim: int = 1) -> Tensor:
    """Keep the ``n`` largest magnitudes of every ``m`` consecutive weights along ``dim``.

    Along dimension 1 these are inputs of one output, at one place of the kernel: the pattern of
    2:4 sparse hardware. Of equal magnitudes the earlier is pruned first.

    Args:
        weight: of any shape with that dimension.
        n: weights that are left of each ``m``, from 0 to ``m``.
        m: divides the extent of the dimension.
        dim: dimension along which weights are grouped.

    Returns:
        A bool mask of the shape of ``weight``, False where it is pruned.

    Raises:
        ModelError: ``n`` is not from 0 to ``m``, or ``m`` does not divide the extent.

    Example:
        >>> n_of_m_mask(torch.tensor([[1.0, -3.0, 2.0, 0.5]]), 2, 4)
        tensor([[False,  True,  True, False]])

    Source: Mishra et al. 2021, "Accelerating sparse deep neural networks".
    """
    if not (m >= 1 and 0 <= n <= m):
        raise ModelError(f"the pattern {n}:{m} is not N:M with 0 ≤ N ≤ M and M at least 1")
    if not -weight.ndim <= dim < weight.ndim:
        raise ModelError(f"a weight of shape {tuple(weight.shape)} has no dimension {dim}")
    if weight.shape[dim] % m:
        raise ModelError(
            f"N of {m} needs a multiple of {m} weights along dimension {dim}, "
            f"and the shape is {tuple(weight.shape)}; exclude the tensor"
        )
    check_finite(weight)
    rows = weight.detach().abs().movedim(dim, -1)
    groups = rows.reshape(*rows.shape[:-1], rows.shape[-1] // m, m)
    ascending = groups.argsort(dim=-1, stable=True)
    mask = torch.ones_like(groups, dtype=torch.bool)
    mask.scatter_(-1, ascending[..., : m - n], False)
    return mask.flatten(-2).movedim(-1, dim)


def block_mask(
    weight: Tensor, sparsity: float, block: tuple[int, ...], *, order: float = 2
) -> Tensor:
    """Prune whole blocks of the smallest norm.

    Args:
        weight: floating-point tensor of any shape.
        sparsity: fraction from 0 to 1; exactly ``round(sparsity · B)`` of B blocks are pruned.
        block: extent of a block along each dimension of ``weight``.
        order: order of the norm.

    Returns:
        A bool mask of the shape of ``weight``, False where it is pruned.

    Raises:
        ModelError: the blocks do not divide the shape, or the weights are integers.

    Example:
        >>> weight = torch.tensor([[1.0, 1.0, 0.1, 0.1], [1.0, 0.0, 0.1, 0.1]])
        >>> block_mask(weight, 0.5, (2, 2))
        tensor([[ True,  True, False, False],
                [ True,  True, False, False]])

    Source: Narang et al. 2017, "Block-sparse recurrent neural networks".
    """
    check_fraction(sparsity)
    _check_block(weight, block)
    if not weight.is_floating_point():
        raise ModelError(
            f"norms are of floating-point weights, not of {weight.dtype}; dequantize them first"
        )
    check_finite(weight)
    blocks = to_blocks(weight.detach(), block)
    exact = torch.promote_types(weight.dtype, torch.float32)  # sums in float16 overflow
    norms = torch.linalg.vector_norm(blocks, order, dim=-1, dtype=exact)
    keep = keep_highest(norms, round(sparsity * norms.numel()))
    return from_blocks(keep.unsqueeze(-1).expand(blocks.shape), block)


def _check_block(weight: Tensor, block: tuple[int, ...]) -> None:
    shape = tuple(weight.shape)
    if len(block) != len(shape) or any(b < 1 or s % b for s, b in zip(shape, block, strict=False)):
        raise ModelError(f"blocks of {tuple(block)} do not divide a weight of shape {shape}")


def block_extents(weight: Tensor, kind: str, extents: tuple[int, ...] = ()) -> tuple[int, ...]:
    """Return the extents of the groups of a pattern: "filters", "channels" or "block".

    Args:
        weight: outputs first.
        kind: of the pattern.
        extents: of a block.

    Raises:
        ModelError: the shape has no such groups.

    Example:
        >>> block_extents(torch.zeros(8, 4, 3, 3), "filters")
        (1, 4, 3, 3)
    """
    if kind == "block":
        _check_block(weight, extents)
        return extents
    if weight.ndim < 2:
        raise ModelError(
            f"filters and channels need a weight of two or more dimensions; this one has the shape "
            f"{tuple(weight.shape)}"
        )
    block = [max(extent, 1) for extent in weight.shape]
    block[0 if kind == "filters" else 1] = 1
    return tuple(block)


def to_blocks(weight: Tensor, block: tuple[int, ...]) -> Tensor:
    """Split a weight into blocks, with the weights of each block in the last dimension.

    Example:
        >>> to_blocks(torch.arange(8).view(2, 4), (2, 2))
        tensor([[[0, 1, 4, 5],
                 [2, 3, 6, 7]]])
    """
    counts = [extent // b for extent, b in zip(weight.shape, block, strict=True)]
    split = [part for pair in zip(counts, block, strict=True) for part in pair]
    outer, inner = range(0, 2 * len(block), 2), range(1, 2 * len(block), 2)
    return weight.reshape(split).permute(*outer, *inner).reshape(*counts, prod(block))


def from_blocks(blocks: Tensor, block: tuple[int, ...]) -> Tensor:
    """Join blocks to a weight: the inverse of `to_blocks`."""
    counts, rank = blocks.shape[:-1], len(block)
    order = [
        place for pair in zip(range(rank), range(rank, 2 * rank), strict=True) for place in pair
    ]
    shape = [count * b for count, b in zip(counts, block, strict=True)]
    return blocks.reshape(*counts, *block).permute(order).reshape(shape)


def filter_mask(
    weight: Tensor, sparsity: float, *, order: float = 1, layout: WeightLayout = OUTPUTS_FIRST
) -> Tensor:
    """Prune whole filters, the weights of one output each, of the smallest norm.

    Args:
        weight: of two or more dimensions.
        sparsity: fraction from 0 to 1; exactly ``round(sparsity · K)`` of K filters are pruned.
        order: order of the norm.
        layout: of the layer; by default the filters are the slices ``weight[k]``.

    Returns:
        A bool mask of the shape of ``weight``, False where it is pruned.

    Raises:
        ModelError: as `block_mask`.

    Example:
        >>> filter_mask(torch.tensor([[1.0, 1.0], [0.5, 0.5]]), 0.5)
        tensor([[ True,  True],
                [False, False]])

    Source: Li et al. 2017, "Pruning filters for efficient ConvNets" (with order 1).
    """
    return _slice_mask(weight, sparsity, "filters", order, layout)


def channel_mask(
    weight: Tensor, sparsity: float, *, order: float = 1, layout: WeightLayout = OUTPUTS_FIRST
) -> Tensor:
    """Prune whole input channels, the slices ``weight[:, k]``, of the smallest norm.

    Arguments, result and errors are those of `filter_mask`.

    Example:
        >>> channel_mask(torch.tensor([[1.0, 0.1], [1.0, 0.2]]), 0.5)
        tensor([[ True, False],
                [ True, False]])

    Source: He et al. 2017, "Channel pruning for accelerating very deep neural networks".
    """
    return _slice_mask(weight, sparsity, "channels", order, layout)


def _slice_mask(
    weight: Tensor, sparsity: float, kind: str, order: float, layout: WeightLayout
) -> Tensor:
    rows = layout.outputs_first(weight)
    return layout.as_stored(block_mask(rows, sparsity, block_extents(rows, kind), order=order))
