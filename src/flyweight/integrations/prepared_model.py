"""What the callbacks share: the model that a `Pruner` or `Quantizer` prepared, and its penalty."""

from __future__ import annotations

from typing import Protocol

from torch import nn

from flyweight.errors import ModelError
from flyweight.training import Stage

__all__ = ["PreparedStage", "add_penalty_", "check_trains_prepared"]


class PreparedStage(Stage, Protocol):
    """Stage of a training run with its prepared model: a `Pruner` or a `Quantizer`."""

    @property
    def model(self) -> nn.Module:
        """Model to train."""


def check_trains_prepared(trained: nn.Module, prepared: nn.Module, owner: str) -> None:
    """Raise ModelError if ``prepared`` is not ``trained`` or a submodule of it.

    Args:
        trained: model that a trainer trains, wrapped or not.
        prepared: ``model`` of a `Pruner` or `Quantizer`.
        owner: "pruner" or "quantizer", for the message.

    Example:
        >>> inner = nn.Linear(2, 2)
        >>> check_trains_prepared(nn.Sequential(inner), inner, "pruner")
        >>> check_trains_prepared(nn.Linear(2, 2), inner, "pruner")
        Traceback (most recent call last):
        flyweight.errors.ModelError: the trainer trains another model than pruner.model; ...
    """
    if not any(module is prepared for module in trained.modules()):
        raise ModelError(
            f"the trainer trains another model than {owner}.model; pass {owner}.model to it"
        )


def add_penalty_(stage: PreparedStage) -> None:
    """Add the gradient of a stage's penalty to those of the loss, before the optimizer's step.

    Example:
        >>> from flyweight.quantization import QuantizationConfig, Quantizer
        >>> config = QuantizationConfig(method="rate", loss_per_bit=1e-3)
        >>> quantizer = Quantizer(nn.Linear(4, 4), config, steps=10)
        >>> add_penalty_(quantizer)
        >>> quantizer.weights["weight"].grad is None
        False
    """
    penalty = stage.penalty()
    if penalty is not None:
        penalty.backward()  # type: ignore[no-untyped-call]
