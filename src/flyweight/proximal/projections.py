"""Projections on sets of sparse tensors: top-k and N of M."""

from __future__ import annotations

import torch
from torch import Tensor

from flyweight.errors import ModelError
from flyweight.proximal.checks import Step, check_penalty, masked
from flyweight.pruning import check_finite, keep_highest, n_of_m_mask

__all__ = ["n_of_m", "top_k"]


def _in_metric(values: Tensor, step: Step) -> Tensor:
    """Return numbers that rank as v²/step, the cost of a zero; a step of 0 makes it infinite."""
    check_penalty(values, step)
    if not isinstance(step, Tensor):
        return values
    return values / step.to(values.dtype).sqrt().clamp(min=torch.finfo(values.dtype).tiny)


def top_k(values: Tensor, nonzeros: int, *, step: Step = 1.0) -> Tensor:
    """Project on tensors with at most ``nonzeros`` non-zero weights: keep the largest magnitudes.

    The result is the nearest such tensor by ½·‖w − v‖². Of equal magnitudes the later stays. With
    a ``step`` for each weight, nearest is by ½·Σ(wᵢ − vᵢ)²/stepᵢ, and the largest vᵢ²/stepᵢ stay.

    Args:
        values: of any shape.
        nonzeros: number of weights that stay.
        step: one for all weights, or one for each.

    Returns:
        A new tensor of the same shape and type.

    Raises:
        ModelError: ``nonzeros`` is below 0, or a value is not finite.

    Example:
        >>> top_k(torch.tensor([-2.0, 0.5, 1.5]), 2)
        tensor([-2.0000,  0.0000,  1.5000])

    Source: Blumensath & Davies 2009, "Iterative hard thresholding for compressed sensing".
    """
    if nonzeros < 0:
        raise ModelError(f"the number of non-zero weights is {nonzeros}; give 0 or more")
    check_finite(values)
    return masked(values, keep_highest(_in_metric(values, step).abs(), values.numel() - nonzeros))


def n_of_m(values: Tensor, n: int, m: int, *, dim: int = 1, step: Step = 1.0) -> Tensor:
    """Project on the N:M pattern: keep the ``n`` largest of every ``m`` weights along ``dim``.

    The result is the nearest tensor of that pattern, in the metric of ``step`` as for `top_k`.
    Shapes and errors are those of `flyweight.pruning.n_of_m_mask`.

    Example:
        >>> n_of_m(torch.tensor([[1.0, -3.0, 2.0, 0.5]]), 2, 4)
        tensor([[ 0., -3.,  2.,  0.]])

    Source: Mishra et al. 2021, "Accelerating sparse deep neural networks".
    """
    return masked(values, n_of_m_mask(_in_metric(values, step), n, m, dim=dim))
