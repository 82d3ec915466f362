"""Configuration of a training run."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from flyweight._config import (
    AtLeastOne,
    Fraction,
    NotNegative,
    NotNegativeInt,
    Positive,
    ProperFraction,
    check_fields,
)
from flyweight.errors import RecipeError

__all__ = ["TrainingConfig"]


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How a model trains: optimizer, learning-rate schedule, averaging, distillation.

    Attributes:
        epochs: passes over the data.
        optimizer: "sgd" with momentum, or "adamw".
        learning_rate: the peak of the schedule.
        schedule: "cosine" to zero (with a warm-up this is one cycle), "constant", or "step": the
            rate is multiplied by ``decay`` at each of ``milestones``. All begin with a linear
            warm-up over the fraction ``warmup`` of the steps.
        warmup: fraction of the steps in which the rate rises to its peak.
        milestones: fractions of the run, rising, at which "step" decays.
        decay: factor of "step".
        momentum: of "sgd".
        nesterov: whether that momentum is Nesterov's.
        weight_decay: acts on tensors of two and more dimensions only.
        label_smoothing: of cross-entropy, where no loss is given.
        ema_decay: per step, of an exponential moving average of the weights, which is what the
            run gives then; 0 for none.
        gradient_clip: largest norm of all gradients together; 0 for no limit.
        accumulation_steps: batches whose gradients are averaged for one step of the optimizer.
        distillation: share of the teacher's outputs in the loss, from 0 to 1.
        temperature: of distillation.
        precision: "auto" is bf16 autocast where the hardware has it and parameters are float32,
            "fp32" or "bf16".
        compile: fuse the operations of the model that trains by `torch.compile`: about a minute
            at the start, then faster epochs.
        freeze_batch_norm: normalize by the running statistics, which stay; scale and bias train.
            Batch normalization in evaluation mode, in a model in training mode, does so anyway.

    Raises:
        RecipeError: a value is of another type or out of its bounds, or has no effect.

    Example:
        >>> config = TrainingConfig(epochs=2, learning_rate=0.1, schedule="constant", warmup=0.0)
        >>> config.rate(5, 10)
        0.1

    Sources: Loshchilov & Hutter 2017, "SGDR" (cosine); Smith & Topin 2018 (one cycle); Hinton et
    al. 2015, "Distilling the knowledge in a neural network", §2.
    """

    epochs: NotNegativeInt = 100
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Positive = 0.2
    schedule: Literal["cosine", "constant", "step"] = "cosine"
    warmup: ProperFraction = 0.1
    milestones: tuple[Fraction, ...] = (0.5, 0.75)
    decay: Positive = 0.1
    momentum: ProperFraction = 0.9
    nesterov: bool = True
    weight_decay: NotNegative = 5e-4
    label_smoothing: ProperFraction = 0.0
    ema_decay: ProperFraction = 0.0
    gradient_clip: NotNegative = 0.0
    accumulation_steps: AtLeastOne = 1
    distillation: Fraction = 0.0
    temperature: Positive = 2.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool = False
    freeze_batch_norm: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "training")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise RecipeError(f"training.milestones rise; found {self.milestones}")

    @property
    def trains_batch_norm(self) -> bool:
        """Whether batch normalization uses, and gathers, the statistics of training batches."""
        return self.epochs > 0 and not self.freeze_batch_norm

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of a step counted from 0, out of ``steps``."""
        ramp = self.warmup * steps
        if step < ramp:
            return self.learning_rate * (step + 1) / (ramp + 1)
        if self.schedule == "constant":
            return self.learning_rate
        if self.schedule == "step":
            passed = sum(step >= milestone * steps for milestone in self.milestones)
            return self.learning_rate * self.decay**passed
        progress = (step - ramp) / max(1.0, steps - ramp)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
