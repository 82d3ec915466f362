"""Proximal steps after those of any torch optimiser: training that leaves exact zeros."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from flyweight.errors import ModelError, RecipeError
from flyweight.proximal.checks import Step
from flyweight.proximal.penalties import soft_threshold
from flyweight.modules import matching, overrides_by_name, select_weights

__all__ = ["Operator", "Penalty", "ProximalSteps", "attach_proximal_"]

_STATE = "proximal"
_ATTACHED: WeakKeyDictionary[torch.optim.Optimizer, int] = WeakKeyDictionary()


class Operator(Protocol):
    """A proximal operator of this package, or a function that is called in the same way.

    What has more arguments takes them by `functools.partial`; a projection leaves the strength
    unused: ``lambda values, strength, *, step: n_of_m(values, 2, 4, step=step)``.
    """

    def __call__(self, values: Tensor, strength: float, *, step: Step) -> Tensor:  # noqa: D102
        ...


@dataclass(frozen=True)
class Penalty:
    """A penalty on weights, to be added to the loss that a network is trained with.

    Attributes:
        strength: λ, in the unit of the operator, for most of them loss per unit of weight.
        operator: of the penalty; `soft_threshold` is the lasso.
        overrides: strength by glob over the names of weights; of several that match the last
            counts.
        layers: globs over the names of the weights of two and more dimensions that take part.
        keep: globs of those that are left alone.
        types: classes of layers, such as "Conv2d"; none for all.
        warmup: steps in which the strength grows from 0 in a straight line.
        interval: steps of the optimiser to one proximal step, which is as large as all of them
            together. The noise of single gradients averages out between: the same penalty leaves
            more zeros.
        metric: "optimizer" takes for the step of each weight the one that the optimiser makes,
            for Adam one for each weight; "plain" the learning rate for all.

    Raises RecipeError for a value that cannot be.

    Example:
        >>> Penalty(1e-4, overrides={"fc.*": 0.0}, warmup=500).strength_at("conv1.weight", 99)
        2e-05
    """

    strength: float
    operator: Operator = soft_threshold
    overrides: Mapping[str, float] = field(default_factory=dict)
    layers: tuple[str, ...] = ("*",)
    keep: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    warmup: int = 0
    interval: int = 1
    metric: Literal["optimizer", "plain"] = "optimizer"

    def __post_init__(self) -> None:
        for name, strength in {"strength": self.strength, **self.overrides}.items():
            if not (math.isfinite(strength) and strength >= 0):
                raise RecipeError(
                    f"a strength of a penalty is a finite number from 0 on; "
                    f"found {strength} for {name!r}"
                )
        if self.warmup < 0:
            raise RecipeError(f"the warm-up of a penalty is 0 steps or more; found {self.warmup}")
        if self.interval < 1:
            raise RecipeError(f"the interval of a penalty is 1 step or more; found {self.interval}")
        if self.metric not in ("optimizer", "plain"):
            raise RecipeError(
                f"the metric of a penalty is 'optimizer' or 'plain'; found {self.metric!r}"
            )

    def strength_at(self, name: str, step: int) -> float:
        """Strength for a weight at a step, counted from 0."""
        full = matching(name, self.overrides, self.strength)
        return full * (step + 1) / self.warmup if step < self.warmup else full


class ProximalSteps:
    """What `attach_proximal_` put on an optimiser.

    Attributes:
        penalty: that is applied.
        number: how many steps were made.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, weights: Mapping[str, Tensor], penalty: Penalty
    ) -> None:
        self.penalty = penalty
        self.number = 0
        before = _ATTACHED.get(optimizer, 0)
        _ATTACHED[optimizer] = before + 1
        self._key = f"{_STATE} {before + 1}" if before else _STATE
        self._due: dict[str, Step] = {}  # steps made since the last proximal one
        self._names = {weight: name for name, weight in weights.items()}
        self._hooks = [
            optimizer.register_step_post_hook(self._after_step),
            optimizer.register_state_dict_post_hook(self._save),
            optimizer.register_load_state_dict_pre_hook(self._load),
        ]

    @torch.no_grad()
    def _after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        # Fused optimisers are called on overflow too, and then leave the weights as they are.
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
                strength = self.penalty.strength_at(name, self.number)
                weight.copy_(self.penalty.operator(weight, strength, step=self._due.pop(name)))

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
        """Fraction of the weights under the penalty that are exactly zero."""
        zeros = sum(int((weight == 0).sum()) for weight in self._names)
        return zeros / max(1, sum(weight.numel() for weight in self._names))

    def detach_(self) -> None:
        """Take the penalty off; the optimiser goes on without."""
        for hook in self._hooks:
            hook.remove()


def attach_proximal_(
    optimizer: torch.optim.Optimizer, model: nn.Module, penalty: Penalty
) -> ProximalSteps:
    """Let a proximal step follow each step of ``optimizer``: weights become exactly zero.

    The optimiser minimises the loss, the proximal step the penalty: together they minimise loss
    plus penalty, and where the penalty has a corner there are exact zeros, which the penalty's
    gradient in the loss never gives. Weight decay of SGD and Adam belongs to the loss; that of
    AdamW, which is no part of any loss, shrinks the weights before the proximal step.

    ``optimizer`` stays itself: gradient scalers, schedulers of the learning rate, Accelerate and
    checkpoints work as before. Its state dict has one more entry, the number of steps, with which
    the warm-up goes on; of several penalties on one optimiser each has its own, in the order in
    which they were attached. A step that a gradient scaler skips is not made; a weight without a
    gradient stays as it is.

    The proximal step has the size of the optimiser's step: of SGD, learning rate · (1 − dampening)
    / (1 − momentum), what a constant gradient moves a weight by; of Adam and AdamW, learning rate
    / (√v + ε) for each weight, in whose metric the operators are exact. Others are refused unless
    the metric of the penalty is "plain".

    Arguments:
        optimizer: any that has been given the weights of ``model``.
        model: whose weights are chosen by name, itself and not in the wrapper of several processes.
        penalty: on which weights, and how strong.

    Raises ModelError where a weight is not the optimiser's, a glob matches nothing, or the steps
    of the optimiser are not known.

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

    Source: Parikh & Boyd 2014, "Proximal algorithms", §4.2; of Adam's metric, Yun et al. 2021,
    "Adaptive proximal gradient methods for structured neural networks".
    """
    weights = select_weights(model, layers=penalty.layers, keep=penalty.keep, types=penalty.types)
    penalty = replace(penalty, overrides=overrides_by_name(model, weights, penalty.overrides))
    held = {weight for group in optimizer.param_groups for weight in group["params"]}
    for name, weight in weights.items():
        if weight not in held:
            raise ModelError(
                f"the optimizer does not hold tensor {name!r}: it was made for another copy of the "
                "model, or this weight is not trained; make it anew, or name the weight in keep"
            )
    if penalty.metric == "optimizer":
        _check_optimizer(optimizer)
    return ProximalSteps(optimizer, weights, penalty)


def _check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    if not isinstance(optimizer, (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)):
        raise ModelError(
            f"the step that {type(optimizer).__name__} makes for each weight is not known; use "
            "SGD, Adam or AdamW, or the metric 'plain', which is the learning rate for all"
        )
    if isinstance(optimizer, torch.optim.SGD):
        for group in optimizer.param_groups:
            if group["momentum"] >= 1:
                raise ModelError(f"a momentum below 1 is needed; found {group['momentum']}")


def _step_of(optimizer: torch.optim.Optimizer, group: Mapping[str, Any], weight: Tensor) -> Step:
    """By how much a constant gradient of 1 moves each weight in a step."""
    rate = float(group["lr"])
    if isinstance(optimizer, torch.optim.SGD):
        momentum, dampening = float(group["momentum"]), float(group["dampening"])
        return rate * (1 - dampening) / (1 - momentum) if momentum else rate
    state = optimizer.state[weight]
    square: Tensor = state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"]
    correction = 1 - group["betas"][1] ** float(state["step"])
    steps: Tensor = rate / ((square / correction).sqrt() + group["eps"])
    return steps
