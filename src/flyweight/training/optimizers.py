"""Optimizers of a training run, and the moving average of its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from flyweight.errors import CheckpointError, ModelError
from flyweight.training.config import TrainingConfig

__all__ = ["OptimizerFactory", "average_", "configured_optimizer", "restore_", "set_rates_"]

OptimizerFactory = Callable[[nn.Module], torch.optim.Optimizer]
"""Builds an optimizer of the parameters of a model."""


def configured_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Build the optimizer of a configuration; weight decay acts on two and more dimensions.

    Example:
        >>> optimizer = configured_optimizer(nn.Linear(3, 2), TrainingConfig(weight_decay=0.1))
        >>> [(len(group["params"]), group["weight_decay"]) for group in optimizer.param_groups]
        [(1, 0.1), (1, 0.0)]
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ModelError("no parameter of the model requires a gradient; unfreeze some to train")
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate)
    return torch.optim.SGD(
        groups,
        lr=config.learning_rate,
        momentum=config.momentum,
        nesterov=config.nesterov and config.momentum > 0,
    )


def set_rates_(
    optimizer: torch.optim.Optimizer,
    rate: float,
    config: TrainingConfig,
    peaks: list[float] | None,
) -> None:
    """Set the learning rate of a step.

    Args:
        optimizer: to change.
        rate: that ``config`` gives for the step.
        config: whose ``learning_rate`` is the peak of the schedule.
        peaks: rate of each group at that peak; None for the rate of the configuration.
    """
    for number, group in enumerate(optimizer.param_groups):
        group["lr"] = rate if peaks is None else peaks[number] * (rate / config.learning_rate)


@torch.no_grad()
def average_(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    """Update an exponential moving average of the floats of a model; copy its integers.

    Tensors that have several names are averaged once.

    Example:
        >>> averaged, model = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.zeros_(averaged.weight), nn.init.ones_(model.weight)
        >>> average_(averaged, model, 0.75)
        >>> averaged.weight.item()
        0.25
    """
    theirs = model.state_dict(keep_vars=True)
    floats: list[Tensor] = []
    targets: list[Tensor] = []
    seen: set[int] = set()
    for name, value in averaged.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor) or id(value) in seen:
            continue
        seen.add(id(value))
        if value.is_floating_point():
            floats.append(value)
            targets.append(theirs[name])
        else:
            value.copy_(theirs[name])
    if floats:
        torch._foreach_lerp_(floats, targets, 1 - decay)


def restore_(optimizer: torch.optim.Optimizer, state: Any, *, configured: bool) -> None:
    """Load the state of an optimizer, after checking that it fits.

    Args:
        optimizer: to change.
        state: as ``state_dict()`` gives it.
        configured: whether it is an optimizer of `configured_optimizer`, whose settings and
            shapes of tensors are known.

    Raises:
        CheckpointError: the state belongs to another optimizer, or is none.
    """
    own = optimizer.state_dict()
    if not isinstance(state, Mapping) or not {"state", "param_groups"} <= state.keys():
        raise CheckpointError("it has no state of an optimizer")
    groups = state["param_groups"]
    if not isinstance(groups, list) or len(groups) != len(own["param_groups"]):
        raise CheckpointError("its optimizer has other groups of parameters")
    for found, expected in zip(groups, own["param_groups"], strict=True):
        if not isinstance(found, Mapping) or not isinstance(found.get("lr"), float | Tensor):
            raise CheckpointError("its optimizer has no learning rates")
        if configured and repr({**found, "lr": 0}) != repr({**expected, "lr": 0}):
            raise CheckpointError("its optimizer has other settings")
    if configured:
        _check_tensors(optimizer, state["state"])
    optimizer.load_state_dict(dict(state))


def _check_tensors(optimizer: torch.optim.Optimizer, states: Any) -> None:
    """Each tensor of an optimizer is a number or has the shape of its parameter."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    names = {"momentum_buffer"}
    if isinstance(optimizer, torch.optim.AdamW):
        names = {"step", "exp_avg", "exp_avg_sq"}
    if not isinstance(states, Mapping) or not set(states) <= set(range(len(parameters))):
        raise CheckpointError("its optimizer has other parameters")
    for number, values in states.items():
        if not isinstance(values, Mapping) or set(values) != names:
            raise CheckpointError("its optimizer is of another kind")
        for name, value in values.items():
            shape = torch.Size() if name == "step" else parameters[number].shape
            if value is None and name == "momentum_buffer":
                continue
            if not isinstance(value, Tensor) or value.shape != shape:
                raise CheckpointError("its optimizer has tensors of another shape")
            if not value.is_floating_point() or not bool(torch.isfinite(value).all()):
                raise CheckpointError("its optimizer holds values that are not finite")
