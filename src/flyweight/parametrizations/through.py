"""Straight through: the layer sees one value, and its gradient goes to another."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["straight_through"]


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(mask)
        return torch.where(mask, values, torch.zeros((), dtype=values.dtype, device=values.device))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        (mask,) = ctx.saved_tensors
        return gradient * mask, None, None


def straight_through(weight: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """``values`` where ``mask`` is True and exactly 0 elsewhere, to be trained as ``weight``.

    ``weight`` gets the gradient of what is returned where the mask is True, and none elsewhere. All
    three have the same shape.

    Example:
        >>> weight = torch.tensor([0.9, 0.2], requires_grad=True)
        >>> seen = straight_through(weight, torch.tensor([1.0, 5.0]), torch.tensor([True, False]))
        >>> seen.sum().backward()
        >>> seen.tolist(), weight.grad.tolist()
        ([1.0, 0.0], [1.0, 0.0])

    Source: Bengio et al. 2013, "Estimating or propagating gradients through stochastic neurons".
    """
    seen: Tensor = _Through.apply(weight, values, mask)  # type: ignore[no-untyped-call]
    return seen
