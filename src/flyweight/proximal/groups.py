"""Group lasso: penalize rows, filters, channels or blocks of a weight as a whole."""

from __future__ import annotations

from math import prod, sqrt

import torch
from torch import Tensor

from flyweight.errors import ModelError
from flyweight.proximal.checks import Step, check_penalty
from flyweight.pruning import Pattern, block_extents, from_blocks, to_blocks

__all__ = ["group_soft_threshold"]

_NEWTON_STEPS = 12


def group_soft_threshold(
    values: Tensor, strength: float, *, groups: str = "filters", step: Step = 1.0
) -> Tensor:
    """Apply the proximal operator of the group lasso, λ·Σ √p·‖w_g‖₂ over groups g of p weights.

    The norm of a group decreases by step·λ·√p; a group of a smaller norm becomes exactly 0. With
    the root one strength serves layers whose groups differ in size.

    Args:
        values: of two or more dimensions, outputs first.
        strength: λ, in units of the loss per unit of weight.
        groups: "filters" (or rows: the slices ``values[k]``), "channels" (or columns:
            ``values[:, k]``), or a block such as "4x1x3x3" that divides the shape.
        step: one for all weights; or, of the shape of ``values``, one for each: then the result
            is the minimizer of ½·Σ(wᵢ − vᵢ)²/stepᵢ + λ·Σ √p·‖w_g‖₂, whose norms are found by
            Newton's method (to rounding; zeros by their exact condition).

    Returns:
        A new tensor of the same shape and type.

    Raises:
        ModelError: the groups do not divide the shape, or a number is below 0.

    Example:
        >>> group_soft_threshold(torch.tensor([[3.0, 4.0], [0.3, 0.4]]), 0.5 / 2**0.5)
        tensor([[2.7000, 3.6000],
                [0.0000, 0.0000]])

    Source: Yuan & Lin 2006, "Model selection and estimation in regression with grouped variables";
    Wen et al. 2016, "Learning structured sparsity in deep neural networks"; of the metric, Yun et
    al. 2021, "Adaptive proximal gradient methods for structured neural networks".
    """
    check_penalty(values, step, strength=strength)
    pattern = Pattern.of(groups)
    if pattern.kind not in ("filters", "channels", "block"):
        raise ModelError(
            f"the groups are {groups!r}; give 'filters', 'channels' or a block such as '4x1x3x3'"
        )
    block = block_extents(values, pattern.kind, pattern.extents)
    inside = to_blocks(values, block)
    threshold = strength * sqrt(prod(block))
    if isinstance(step, Tensor):
        shrunk = _in_metric(inside, to_blocks(step.to(values.dtype), block) * threshold)
    else:
        lengths = inside.norm(dim=-1, keepdim=True)
        factor = 1 - step * threshold / torch.where(lengths > 0, lengths, 1.0)
        shrunk = torch.where(lengths <= step * threshold, 0.0, inside * factor)
    return from_blocks(shrunk, block) + 0.0


def _in_metric(values: Tensor, thresholds: Tensor) -> Tensor:
    """Compute weights vᵢ·n/(n + tᵢ), with the norm n the root of Σ vᵢ²/(n + tᵢ)² = 1.

    Written as 1/√Σ = 1, the left side is concave and increasing in n, so that Newton's method
    converges from below when it starts below the root.
    """
    safe = torch.where(thresholds > 0, thresholds, torch.finfo(values.dtype).tiny)
    zero = (values / safe).square().sum(-1, keepdim=True) <= 1
    lengths = values.norm(dim=-1, keepdim=True)
    lower = torch.finfo(values.dtype).tiny
    root = (lengths - thresholds.amax(-1, keepdim=True)).clamp(min=lower)
    for _ in range(_NEWTON_STEPS):
        parts = (values / (root + thresholds)).square()
        total = parts.sum(-1, keepdim=True)
        slope = (parts / (root + thresholds)).sum(-1, keepdim=True)
        root = (root + (total.sqrt() - 1) * total / torch.where(zero, 1.0, slope)).clamp(min=lower)
    return torch.where(zero, 0.0, values * (root / (root + thresholds)))
