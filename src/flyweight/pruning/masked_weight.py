"""Parametrization of a pruned weight: exactly zero for the layer, whatever the optimizer does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flyweight.modules import OUTPUTS_FIRST, WeightLayout, WeightParametrization

__all__ = ["MaskedWeight"]


class _Masked(torch.autograd.Function):
    """weight · mask, with a gradient where ``learning``, by default the mask, is True."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor, learning: Tensor | None) -> Tensor:
        ctx.save_for_backward(mask if learning is None else learning)
        return torch.where(mask, weight, torch.zeros((), dtype=weight.dtype, device=weight.device))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        (learning,) = ctx.saved_tensors
        # Not a product, which would make NaN of an infinite gradient.
        zero = torch.zeros((), dtype=gradient.dtype, device=gradient.device)
        return torch.where(learning, gradient, zero), None, None


class MaskedWeight(WeightParametrization):
    """Mask a weight: its layer sees the dense weight where ``mask`` is True, and 0 elsewhere.

    The optimizer trains the dense weight, so that none of its steps revives a zero. Without
    regrowth a pruned weight gets no gradient. With ``allow_regrowth`` it gets that of the masked
    weight, and may return when the mask is chosen again (Lin et al. 2020, "Dynamic model pruning
    with feedback"). The weights of an empty filter get none in either case, since batch
    normalization of its zeros would multiply the gradient by 1/√ε.

    Args:
        mask: bool, of the shape of the weight; a buffer.
        allow_regrowth: whether pruned weights get a gradient.
        layout: tells which slices are filters; of the layer.

    Example:
        >>> MaskedWeight(torch.tensor([True, False]))(torch.tensor([3.0, 4.0])).tolist()
        [3.0, 0.0]
    """

    mask: Tensor

    def __init__(
        self, mask: Tensor, *, allow_regrowth: bool = False, layout: WeightLayout = OUTPUTS_FIRST
    ) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        self.allow_regrowth = allow_regrowth
        self.layout = layout

    def forward(self, weight: Tensor) -> Tensor:
        """Return the masked weight."""
        regrows = self.allow_regrowth and torch.is_grad_enabled()
        # Not the mask a second time: dynamo cannot trace functions of a repeated argument.
        learning = self._in_live_filters() if regrows else None
        masked: Tensor = _Masked.apply(weight, self.mask, learning)  # type: ignore[no-untyped-call]
        return masked

    def _in_live_filters(self) -> Tensor:
        """Return a mask that is True for all weights of each filter that is not empty."""
        rows = self.layout.outputs_first(self.mask)
        if rows.ndim < 2:
            return torch.ones_like(self.mask)
        live = rows.flatten(1).any(1).view(-1, *(1,) * (rows.ndim - 1))
        return self.layout.as_stored(live.expand(rows.shape))
