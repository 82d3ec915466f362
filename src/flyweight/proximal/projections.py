"""Projections on sets of sparse tensors: the nearest tensor with so many weights left."""

from __future__ import annotations

import torch
from torch import Tensor

from flyweight.errors import ModelError
from flyweight.proximal.checks import Step, check_penalty, kept
from flyweight.pruning.patterns import n_of_m_mask
from flyweight.pruning.ranking import check_finite, keep_highest

__all__ = ["n_of_m", "top_k"]


def _in_metric(values: Tensor, step: Step) -> Tensor:
    """Numbers that rank as v²/step, what it costs to make a weight zero; a step of 0 cannot."""
    check_penalty(values, step)
    if not isinstance(step, Tensor):
        return values
    return values / step.to(values.dtype).sqrt().clamp(min=torch.finfo(values.dtype).tiny)


def top_k(values: Tensor, nonzeros: int, *, step: Step = 1.0) -> Tensor:
    """Keep the ``nonzeros`` largest magnitudes of a tensor of any shape; the others become 0.

    The nearest tensor, by ½·‖w − v‖², with that many non-zero weights at most. Among equal
    magnitudes the later place stays. With a ``step`` for each weight, nearest is by
    ½·Σ(wᵢ − vᵢ)²/stepᵢ, and the largest vᵢ²/stepᵢ stay. Returns a new tensor of the same shape and
    type.

    Raises ModelError for ``nonzeros`` below 0 and for values that are not finite.

    Example:
        >>> import torch
        >>> top_k(torch.tensor([-2.0, 0.5, 1.5]), 2)
        tensor([-2.0000,  0.0000,  1.5000])

    Source: Blumensath & Davies 2009, "Iterative hard thresholding for compressed sensing".
    """
    if nonzeros < 0:
        raise ModelError(f"the weights to keep are 0 and more; got {nonzeros}")
    check_finite(values)
    return kept(values, keep_highest(_in_metric(values, step).abs(), values.numel() - nonzeros))


def n_of_m(values: Tensor, n: int, m: int, *, dim: int = 1, step: Step = 1.0) -> Tensor:
    """Keep the ``n`` largest magnitudes of every ``m`` weights in a row along ``dim``.

    The nearest tensor of that pattern, in the metric of ``step`` as for `top_k`;
    `flyweight.pruning.n_of_m_mask` says which shapes it takes and what it raises.

    Example:
        >>> import torch
        >>> n_of_m(torch.tensor([[1.0, -3.0, 2.0, 0.5]]), 2, 4)
        tensor([[ 0., -3.,  2.,  0.]])

    Source: Mishra et al. 2021, "Accelerating sparse deep neural networks".
    """
    return kept(values, n_of_m_mask(_in_metric(values, step), n, m, dim=dim))
