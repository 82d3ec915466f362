"""Pruned weights: exactly zero for the layer, whatever the optimiser does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from flyweight.modules import WeightParametrization

__all__ = ["MaskedWeight"]


class _MaskedProduct(torch.autograd.Function):
    """weight · mask, whose gradient may reach the pruned weights too."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor, recovery: bool) -> Tensor:
        ctx.recovery = recovery
        ctx.save_for_backward(mask)
        return torch.where(mask, weight, torch.zeros((), dtype=weight.dtype, device=weight.device))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        (mask,) = ctx.saved_tensors
        learning = _in_live_filters(mask) if ctx.recovery else mask
        return gradient * learning, None, None


def _in_live_filters(mask: Tensor) -> Tensor:
    """True for all weights of each filter of which something is left; broadcasts over the mask."""
    if mask.ndim < 2:
        return torch.ones((), dtype=torch.bool, device=mask.device)
    return mask.flatten(1).any(1).view(-1, *(1,) * (mask.ndim - 1))


class MaskedWeight(WeightParametrization):
    """The weight a layer sees is the dense one where ``mask`` is True and exactly 0 elsewhere.

    The optimiser keeps the dense weight, so nothing it does can revive a zero. With ``recovery``
    the gradient reaches pruned weights too, and a weight may return when the mask is chosen again
    (Lin et al. 2020, "Dynamic model pruning with feedback"); but not those of a filter of which
    nothing is left, since batch normalisation of its zeros would multiply the gradient by 1/√ε and
    blow it up. Without recovery no pruned weight gets a gradient. ``mask`` is bool, of the shape of
    the weight.

    Example:
        >>> MaskedWeight(torch.tensor([True, False]))(torch.tensor([3.0, 4.0])).tolist()
        [3.0, 0.0]
    """

    mask: Tensor

    def __init__(self, mask: Tensor, *, recovery: bool = False) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        self.recovery = recovery

    def forward(self, weight: Tensor) -> Tensor:
        masked: Tensor = _MaskedProduct.apply(weight, self.mask, self.recovery)  # type: ignore[no-untyped-call]
        return masked
