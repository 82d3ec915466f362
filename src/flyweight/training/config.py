"""What a training run is asked to do."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from flyweight.errors import RecipeError

__all__ = ["PROGRESSIVE_SIZES", "TrainingConfig"]

PROGRESSIVE_SIZES = ((16, 0.25), (20, 0.2), (24, 0.2), (28, 0.15), (32, 0.2))
"""Images that grow from 16 to 32 pixels over the epochs: 0.57 of the arithmetic."""


@dataclass(frozen=True)
class TrainingConfig:
    """Nesterov SGD under a one-cycle schedule: linear warm-up, then a cosine down to zero.

    ``epochs`` passes over the training images in batches of ``batch_size``; ``learning_rate`` is
    the peak, reached after the fraction ``warmup`` of all steps; ``weight_decay`` acts on tensors
    of two and more dimensions only. ``ema_decay`` per step keeps an exponential moving average of
    the weights (0: none). ``image_sizes`` lists (pixels, share of the epochs): early epochs on
    smaller images cost less. ``distillation`` is the share of the teacher's soft labels in the
    loss, at ``temperature``. ``precision`` "auto" means bf16 autocast where the hardware has it.
    ``compile`` fuses the operations of the network that learns, not of a teacher: about a minute at
    the start, then faster epochs.
    ``augmentation`` "standard" crops after padding with zeros and flips at random; smaller images are
    scaled. "alternating" pads by reflection, crops smaller images at their own scale, and flips every
    image in every other epoch, from a random start.
    ``freeze_batch_norm`` normalises by the running statistics there are, which stay; scale and bias
    learn on. A penalty then acts on what the network computes, and not on a scale of the weights
    that normalisation by the batch would take out again.

    Raises RecipeError for a value that cannot be.

    Example:
        >>> TrainingConfig(epochs=10, image_sizes=((16, 0.5), (32, 0.5))).image_size(4)
        16
    """

    epochs: int = 100
    batch_size: int = 128
    learning_rate: float = 0.2
    warmup: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    ema_decay: float = 0.999
    image_sizes: tuple[tuple[int, float], ...] = ((32, 1.0),)
    distillation: float = 0.0
    temperature: float = 2.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool = False
    augmentation: Literal["standard", "alternating"] = "standard"
    freeze_batch_norm: bool = False

    def __post_init__(self) -> None:
        checks = {
            "epochs": self.epochs >= 0,
            "batch_size": self.batch_size >= 1,
            "learning_rate": self.learning_rate > 0,
            "warmup": 0 <= self.warmup < 1,
            "momentum": 0 <= self.momentum < 1,
            "weight_decay": self.weight_decay >= 0,
            "label_smoothing": 0 <= self.label_smoothing < 1,
            "ema_decay": 0 <= self.ema_decay < 1,
            "image_sizes": len(self.image_sizes) > 0
            and all(8 <= size <= 32 and share >= 0 for size, share in self.image_sizes)
            and math.isclose(sum(share for _, share in self.image_sizes), 1.0),
            "distillation": 0 <= self.distillation <= 1,
            "temperature": self.temperature > 0,
            "precision": self.precision in ("auto", "fp32", "bf16"),
            "augmentation": self.augmentation in ("standard", "alternating"),
        }
        for name, holds in checks.items():
            if not holds:
                raise RecipeError(f"training.{name} = {getattr(self, name)!r} is out of range")

    @property
    def trains_batch_norm(self) -> bool:
        """Whether batch normalisation uses, and gathers, the statistics of training batches."""
        return self.epochs > 0 and not self.freeze_batch_norm

    def image_size(self, epoch: int) -> int:
        """Side of the training images, in pixels, in an epoch counted from 0."""
        boundary = 0.0
        for size, share in self.image_sizes:
            boundary += share * self.epochs
            if epoch < boundary - 1e-9:
                return size
        return self.image_sizes[-1][0]

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of a step counted from 0, out of ``steps``."""
        ramp = self.warmup * steps
        if step < ramp:
            return self.learning_rate * (step + 1) / (ramp + 1)
        progress = (step - ramp) / max(1.0, steps - ramp)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
