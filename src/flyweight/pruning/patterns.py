"""Masks in which what goes has a shape: N of M, blocks, filters, channels."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from flyweight.errors import ModelError
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
    """Keep the ``n`` largest magnitudes of every ``m`` weights in a row along ``dim``.

    A row along dimension 1 are the inputs of one output, at one place of the kernel: the pattern
    that 2:4 hardware takes. ``weight`` has any shape with that dimension. Among equal magnitudes
    the earlier goes.

    Raises ModelError unless 0 ≤ n ≤ m and ``m`` divides the extent of the dimension.

    Example:
        >>> n_of_m_mask(torch.tensor([[1.0, -3.0, 2.0, 0.5]]), 2, 4)
        tensor([[False,  True,  True, False]])

    Source: Mishra et al. 2021, "Accelerating sparse deep neural networks".
    """
    if not (m >= 1 and 0 <= n <= m):
        raise ModelError(f"{n}:{m} keeps n of m weights with 0 ≤ n ≤ m and m at least 1")
    if not -weight.ndim <= dim < weight.ndim:
        raise ModelError(f"a weight of shape {tuple(weight.shape)} has no dimension {dim}")
    if weight.shape[dim] % m:
        raise ModelError(
            f"N of {m} needs a multiple of {m} weights along dimension {dim}, "
            f"and the shape is {tuple(weight.shape)}"
        )
    check_finite(weight)
    rows = weight.detach().abs().movedim(dim, -1)
    groups = rows.reshape(*rows.shape[:-1], rows.shape[-1] // m, m)
    ascending = groups.argsort(dim=-1, stable=True)
    kept = torch.ones_like(groups, dtype=torch.bool)
    kept.scatter_(-1, ascending[..., : m - n], False)
    return kept.flatten(-2).movedim(-1, dim)


def block_mask(
    weight: Tensor, sparsity: float, block: tuple[int, ...], *, order: float = 2
) -> Tensor:
    """Prune whole blocks, those of the smallest norm.

    ``block`` is the extent of a block along each dimension of ``weight``; ``order`` that of the
    norm. Exactly ``round(sparsity · B)`` of B blocks go, ``sparsity`` being from 0 to 1.

    Raises ModelError where the blocks do not divide the shape, and for weights that are integers.

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
            f"norms are of floating-point weights, not of {weight.dtype}; dequantise them first"
        )
    check_finite(weight)
    blocks = to_blocks(weight.detach(), block)
    exact = torch.promote_types(weight.dtype, torch.float32)  # the sums of fp16 overflow
    norms = torch.linalg.vector_norm(blocks, order, dim=-1, dtype=exact)
    keep = keep_highest(norms, round(sparsity * norms.numel()))
    return from_blocks(keep.unsqueeze(-1).expand(blocks.shape), block)


def _check_block(weight: Tensor, block: tuple[int, ...]) -> None:
    shape = tuple(weight.shape)
    if len(block) != len(shape) or any(b < 1 or s % b for s, b in zip(shape, block, strict=False)):
        raise ModelError(f"blocks of {tuple(block)} do not divide a weight of shape {shape}")


def block_extents(weight: Tensor, kind: str, extents: tuple[int, ...] = ()) -> tuple[int, ...]:
    """Extent along each dimension of the groups of a pattern: "filters", "channels" or "block".

    Raises ModelError where the shape has no such groups.
    """
    if kind == "block":
        _check_block(weight, extents)
        return extents
    if weight.ndim < 2:
        raise ModelError(
            f"filters and channels are of weights of two and more dimensions, "
            f"not of shape {tuple(weight.shape)}"
        )
    block = [max(extent, 1) for extent in weight.shape]
    block[0 if kind == "filters" else 1] = 1
    return tuple(block)


def to_blocks(weight: Tensor, block: tuple[int, ...]) -> Tensor:
    """The blocks in their order, and in the last dimension the weights of each.

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
    """The weight that `to_blocks` took apart."""
    counts, rank = blocks.shape[:-1], len(block)
    order = [
        place for pair in zip(range(rank), range(rank, 2 * rank), strict=True) for place in pair
    ]
    shape = [count * b for count, b in zip(counts, block, strict=True)]
    return blocks.reshape(*counts, *block).permute(order).reshape(shape)


def filter_mask(weight: Tensor, sparsity: float, *, order: float = 1) -> Tensor:
    """Prune whole filters, the slices weight[k], those of the smallest norm.

    ``weight`` has two or more dimensions, outputs first; ``order`` is that of the norm. Exactly
    ``round(sparsity · K)`` of K filters go, ``sparsity`` being from 0 to 1. The weight of a
    transposed convolution has its inputs first: there its filters are what `channel_mask` prunes,
    and this prunes its input channels.

    Example:
        >>> filter_mask(torch.tensor([[1.0, 1.0], [0.5, 0.5]]), 0.5)
        tensor([[ True,  True],
                [False, False]])

    Source: Li et al. 2017, "Pruning filters for efficient ConvNets" (with order 1).
    """
    return block_mask(weight, sparsity, block_extents(weight, "filters"), order=order)


def channel_mask(weight: Tensor, sparsity: float, *, order: float = 1) -> Tensor:
    """Prune whole input channels, the slices weight[:, k], those of the smallest norm.

    As `filter_mask`, along the second dimension.

    Example:
        >>> channel_mask(torch.tensor([[1.0, 0.1], [1.0, 0.2]]), 0.5)
        tensor([[ True, False],
                [ True, False]])

    Source: He et al. 2017, "Channel pruning for accelerating very deep neural networks".
    """
    return block_mask(weight, sparsity, block_extents(weight, "channels"), order=order)
