"""Sum of the losses of an epoch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flyweight.errors import ModelError

__all__ = ["TotalLoss"]

_CHECK_EVERY = 50  # steps; reading a loss waits for an accelerator


class TotalLoss:
    """Add up the losses of an epoch, which have to be finite.

    Args:
        device: of the losses.
        steps: of the whole run.

    Attributes:
        sum: of the losses so far, on the device.

    Example:
        >>> total = TotalLoss(torch.device("cpu"), 10)
        >>> total.add_(torch.tensor(float("nan")), 4)
        Traceback (most recent call last):
        flyweight.errors.ModelError: the loss is nan at step 5 of 10; lower ...
    """

    def __init__(self, device: torch.device, steps: int) -> None:
        self.sum = torch.zeros((), device=device)
        self.steps = steps
        self.waits = device.type != "cpu"
        self.bad = torch.full((), math.inf, device=device)  # first step that is not finite

    def add_(self, loss: Tensor, step: int) -> None:
        """Add the loss of a step. Raises ModelError for NaN and infinity, maybe some steps late."""
        loss = loss.detach()
        self.sum += loss
        if not self.waits:
            if not math.isfinite(value := float(loss)):
                raise self._error(value, step)
            return
        self.bad = torch.where(torch.isfinite(loss), self.bad, self.bad.clamp(max=step))
        if step % _CHECK_EVERY == 0:
            self.check()

    def check(self) -> None:
        """Raise ModelError where a loss so far was not finite."""
        if self.waits and math.isfinite(step := float(self.bad)):
            raise self._error(float(self.sum), int(step))

    def _error(self, value: float, step: int) -> ModelError:
        return ModelError(
            f"the loss is {value} at step {step + 1} of {self.steps}; lower "
            "training.learning_rate, or set training.gradient_clip"
        )
