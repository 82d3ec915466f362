"""What an operator refuses, in one sentence, and what all of them share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flyweight.errors import ModelError

__all__ = ["Step", "check_penalty", "kept", "threshold_of"]

Step = float | Tensor
"""Of the gradient before: one for all weights, or one for each (a diagonal metric)."""


def check_penalty(values: Tensor, step: Step = 1.0, **strengths: float) -> None:
    """Raise ModelError unless values are floats, and strengths and the step 0 and more.

    Steps in a tensor are not looked at, since that would wait for the device.
    """
    if not values.is_floating_point():
        raise ModelError(f"a penalty is on floating-point weights, not on {values.dtype}")
    numbers = strengths if isinstance(step, Tensor) else {**strengths, "step": step}
    for name, number in numbers.items():
        if not (math.isfinite(number) and number >= 0):
            raise ModelError(f"the {name} of a penalty is a finite number from 0 on; got {number}")
    if isinstance(step, Tensor) and step.shape != values.shape:
        raise ModelError(
            f"a step for each weight has the shape of the weights, {tuple(values.shape)}; "
            f"got {tuple(step.shape)}"
        )


def threshold_of(values: Tensor, strength: float, step: Step) -> Tensor:
    """Product of strength and step, of the type of the values."""
    return torch.as_tensor(strength * step, dtype=values.dtype, device=values.device)


def kept(values: Tensor, mask: Tensor) -> Tensor:
    """The values where ``mask`` is True, and a zero without a sign elsewhere."""
    return torch.where(mask, values, 0.0) + 0.0
