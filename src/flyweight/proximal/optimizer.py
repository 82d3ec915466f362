"""Proximal steps after those of a torch optimizer, for training that leaves exact zeros."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from flyweight.errors import ModelError, RecipeError
from flyweight.modules import WeightLayout, matching, overrides_by_name, select_weights
from flyweight.proximal.checks import Step
from flyweight.proximal.penalties import soft_threshold

__all__ = ["Operator", "Penalty", "ProximalSteps", "attach_proximal_"]

_STATE = "proximal"
_ATTACHED: WeakKeyDictionary[torch.optim.Optimizer, int] = WeakKeyDictionary()


class Operator(Protocol):
    """Proximal operator of this package, or a function with the same signature.

    Bind further arguments with `functools.partial`; a projection ignores the strength:
    ``lambda values, strength, *, step: n_of_m(values, 2, 4, step=step)``. Weights are given with
    outputs first, those of transposed convolutions too.
    """

    def __call__(self, values: Tensor, strength: float, *, step: Step) -> Tensor:  # noqa: D102
        ...


@dataclass(frozen=True)
class Penalty:
    """Penalty on weights that is added to the loss of a training.

    Attributes:
        strength: λ, in the unit of the operator, for most of them loss per unit of weight.
        operator: proximal operator of the penalty; `soft_threshold` is that of the lasso.
        overrides: strength by glob over the names of weights; of several that match the last
            counts.
        include: globs over the names of weights of two and more dimensions that are penalized.
        exclude: globs of those among them that are not.
        layer_types: classes of layers, such as "Conv2d"; none for all.
        warmup: number of steps in which the strength grows linearly from 0.
        interval: number of optimizer steps per proximal step, which is as large as all of them
            together. The noise of single gradients averages out: the same penalty leaves more
            zeros.
        metric: "optimizer" takes the step size that the optimizer makes, for Adam one for each
            weight; "plain" takes the learning rate for all.

    Raises:
        RecipeError: a value is out of its bounds.

    Example:
        >>> Penalty(1e-4, overrides={"fc.*": 0.0}, warmup=500).strength_at("conv1.weight", 99)
        2e-05
    """

    strength: float
    operator: Operator = soft_threshold
    overrides: Mapping[str, float] = field(default_factory=dict)
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    layer_types: tuple[str, ...] = ()
    warmup: int = 0
    interval: int = 1
    metric: Literal["optimizer", "plain"] = "optimizer"

    def __post_init__(self) -> None:
        for name, strength in {"strength": self.strength, **self.overrides}.items():
            if not (math.isfinite(strength) and strength >= 0):
                raise RecipeError(
                    f"the strength of a penalty for {name!r} is {strength}; give a finite number "
                    "from 0"
                )
        if self.warmup < 0:
            raise RecipeError(f"the warm-up of a penalty is {self.warmup} steps; give 0 or more")
        if self.interval < 1:
            raise RecipeError(f"the interval of a penalty is {self.interval} steps; give 1 or more")
        if self.metric not in ("optimizer", "plain"):
            raise RecipeError(
                f"the metric of a penalty is {self.metric!r}; give 'optimizer' or 'plain'"
            )

    def strength_at(self, name: str, step: int) -> float:
        """Return the strength for a weight at a step, counted from 0."""
        full = matching(name, self.overrides, self.strength)
        return full * (step + 1) / self.warmup if step < self.warmup else full


class ProximalSteps:
    """Proximal steps that `attach_proximal_` has attached to an optimizer.

    Attributes:
        penalty: the penalty that is applied.
        number: number of steps made.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        weights: Mapping[str, Tensor],
        penalty: Penalty,
        layouts: Mapping[str, WeightLayout],
    ) -> None:
        self.penalty = penalty
        self.number = 0
        before = _ATTACHED.get(optimizer, 0)
        _ATTACHED[optimizer] = before + 1
        self._key = f"{_STATE} {before + 1}" if before else _STATE
        self._due: dict[str, Step] = {}  # steps made since the last proximal one
        self._names = {weight: name for name, weight in weights.items()}
        self._layouts = layouts
        self._hooks = [
            optimizer.register_step_post_hook(self._after_step),
            optimizer.register_state_dict_post_hook(self._save),
            optimizer.register_load_state_dict_pre_hook(self._load),
        ]

    @torch.no_grad()
    def _after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        # Fused optimizers run on overflow too, and then do not change the weights.
        overflow = getattr(optimizer, "found_inf", None)
        if overflow is not None and bool(overflow):
            return
        for group in optimizer.param_groups:
            for weight in group["params"]:
                name = self._names.get(weight)
                if name is None or weight.grad is None:
                    continue
                step: Step = float(group["lr"])
                if self.penalty.metric == "optimizer":
                    step = _step_of(optimizer, group, weight)
                self._due[name] = self._due[name] + step if name in self._due else step
        if (self.number + 1) % self.penalty.interval == 0:
            self.apply_()
        self.number += 1

    @torch.no_grad()
    def apply_(self) -> None:
        """Make the proximal step that is due, after a run that ends within an interval."""
        for weight, name in self._names.items():
            if name in self._due:
                strength, step = self.penalty.strength_at(name, self.number), self._due.pop(name)
                layout = self._layouts[name]
                if isinstance(step, Tensor):
                    step = layout.outputs_first(step)
                values = self.penalty.operator(layout.outputs_first(weight), strength, step=step)
                weight.copy_(layout.as_stored(values))

    def _save(self, _: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        state[self._key] = {"number": self.number}
        if self._due:
            state[self._key]["due"] = dict(self._due)

    def _load(self, _: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        if self._key in state:
            self.number = int(state[self._key]["number"])
            self._due = dict(state[self._key].get("due", {}))

    @property
    def sparsity(self) -> float:
        """Fraction of the penalized weights that are exactly zero."""
        zeros = sum(int((weight == 0).sum()) for weight in self._names)
        return zeros / max(1, sum(weight.numel() for weight in self._names))

    def detach_(self) -> None:
        """Detach the penalty from the optimizer, which goes on without."""
        for hook in self._hooks:
            hook.remove()


def attach_proximal_(
    optimizer: torch.optim.Optimizer, model: nn.Module, penalty: Penalty
) -> ProximalSteps:
    """Attach a penalty to an optimizer: a proximal step follows each of its steps.

    The optimizer minimizes the loss, the proximal step the penalty: together they minimize loss
    plus penalty, and where the penalty has a corner, weights become exactly 0, as by the penalty's
    gradient in the loss they never do. Weight decay of SGD and Adam belongs to the loss; that of
    AdamW, which is not part of any loss, reduces the weights before the proximal step.

    Gradient scalers, schedulers of the learning rate, Accelerate and checkpoints work as before.
    The state dict of the optimizer has one more entry, the number of steps, from which the warm-up
    continues; of several penalties on one optimizer each has its own, in the order in which they
    were attached. A step that a gradient scaler skips is not made; a weight without a gradient is
    not changed.

    The proximal step has the size of the optimizer's step: for SGD, learning rate ·
    (1 − dampening) / (1 − momentum), by which a constant gradient moves a weight; for Adam and
    AdamW, learning rate / (√v + ε) for each weight, in whose metric the operators are exact. Other
    optimizers need the metric "plain".

    Args:
        optimizer: holds the weights of ``model``.
        model: the module itself, not its wrapper for several processes; weights are selected by
            their names in it.
        penalty: on which weights, and how strong.

    Raises:
        ModelError: the optimizer does not hold a weight, a glob matches nothing, or the step size
            of the optimizer is not known.

    Example:
        >>> model = nn.Linear(4, 2)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> steps = attach_proximal_(optimizer, model, Penalty(0.5))
        >>> for _ in range(20):
        ...     optimizer.zero_grad()
        ...     model(torch.eye(4)).square().sum().backward()
        ...     optimizer.step()
        >>> steps.sparsity
        1.0

    Sources: Parikh & Boyd 2014, "Proximal algorithms", §4.2; for Adam's metric, Yun et al. 2021,
    "Adaptive proximal gradient methods for structured neural networks".
    """
    weights = select_weights(
        model,
        include=penalty.include,
        exclude=penalty.exclude,
        layer_types=penalty.layer_types,
    )
    penalty = replace(penalty, overrides=overrides_by_name(model, weights, penalty.overrides))
    held = {weight for group in optimizer.param_groups for weight in group["params"]}
    for name, weight in weights.items():
        if weight not in held:
            raise ModelError(
                f"the optimizer does not hold tensor {name!r}, since it was made for another copy "
                "of the model or does not train this weight; give the optimizer the parameters of "
                "this model, or exclude the weight"
            )
    if penalty.metric == "optimizer":
        _check_optimizer(optimizer)
    layouts = {name: WeightLayout.at(model, name) for name in weights}
    return ProximalSteps(optimizer, weights, penalty, layouts)


def _check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    if not isinstance(optimizer, (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)):
        raise ModelError(
            f"the step size of {type(optimizer).__name__} for each weight is not known; use SGD, "
            "Adam or AdamW, or the metric 'plain', which is the learning rate for all"
        )
    if isinstance(optimizer, torch.optim.SGD):
        for group in optimizer.param_groups:
            if group["momentum"] >= 1:
                raise ModelError(f"the momentum is {group['momentum']}; use one below 1")


def _step_of(optimizer: torch.optim.Optimizer, group: Mapping[str, Any], weight: Tensor) -> Step:
    """Return by how much a constant gradient of 1 moves each weight in a step."""
    rate = float(group["lr"])
    if isinstance(optimizer, torch.optim.SGD):
        momentum, dampening = float(group["momentum"]), float(group["dampening"])
        return rate * (1 - dampening) / (1 - momentum) if momentum else rate
    state = optimizer.state[weight]
    square: Tensor = state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"]
    correction = 1 - group["betas"][1] ** float(state["step"])
    steps: Tensor = rate / ((square / correction).sqrt() + group["eps"])
    return steps
