"""Checks and helpers that all proximal operators share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flyweight.errors import ModelError

__all__ = ["Step", "check_penalty", "masked", "threshold_of"]

Step = float | Tensor
"""Size of the gradient step before: one for all weights, or one for each (a diagonal metric)."""


def check_penalty(values: Tensor, step: Step = 1.0, **strengths: float) -> None:
    """Raise ModelError unless values are floats, and strengths and the step finite and at least 0.

    The values of a step tensor are not checked, since that would wait for the device.
    """
    if not values.is_floating_point():
        raise ModelError(
            f"the values are of {values.dtype}; a penalty needs floating-point weights"
        )
    numbers = strengths if isinstance(step, Tensor) else {**strengths, "step": step}
    for name, number in numbers.items():
        if not (math.isfinite(number) and number >= 0):
            raise ModelError(f"the {name} of a penalty is {number}; give a finite number from 0")
    if isinstance(step, Tensor) and step.shape != values.shape:
        raise ModelError(
            f"the step has shape {tuple(step.shape)}; give a number, or one for each weight, of "
            f"shape {tuple(values.shape)}"
        )


def threshold_of(values: Tensor, strength: float, step: Step) -> Tensor:
    """Return the product of strength and step, of the type of the values."""
    return torch.as_tensor(strength * step, dtype=values.dtype, device=values.device)


def masked(values: Tensor, mask: Tensor) -> Tensor:
    """Return the values where ``mask`` is True, and 0 (never −0) elsewhere."""
    return torch.where(mask, values, 0.0) + 0.0
