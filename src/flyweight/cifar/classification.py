"""CIFAR-10 classification as the arguments of `flyweight.compress`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypedDict

from torch import nn

from flyweight.cifar.augmentation import AugmentedImages
from flyweight.cifar.dataset import load_cifar10
from flyweight.cifar.evaluation import accuracy
from flyweight.training import Progress, choose_device

__all__ = ["Task", "task"]


class Task(TypedDict):
    """Keyword arguments of `flyweight.compress`: what to train on, and the metric."""

    data: AugmentedImages
    evaluate: Callable[[nn.Module], float]


def task(
    *,
    data: str | Path | None = None,
    batch_size: int = 128,
    split: Literal["train45k", "train50k"] = "train45k",
    evaluate_on: Literal["test", "validation"] = "test",
    device: str = "auto",
    seed: int = 0,
    progress: Progress | None = None,
) -> Task:
    """Load CIFAR-10 as augmented training batches and the accuracy on held-out images.

    Args:
        data: a folder that holds ``cifar-10-batches-py``; None finds or downloads the data.
        batch_size: images per batch.
        split: the images to train on.
        evaluate_on: the 10,000 test images, or the 5,000 validation images where choices are
            made by the metric.
        device: that holds the images.
        seed: of the order and the augmentation.
        progress: called with what is done, how much, and of how much if known.

    Raises:
        DataError: the data is missing, damaged or not CIFAR-10.

    Example:
        >>> import flyweight
        >>> small = flyweight.compress("resnet20", "quick", **task())  # doctest: +SKIP
    """
    dataset = load_cifar10(data, progress=progress)
    target = choose_device(device)
    held_out = dataset.split(evaluate_on).to(target)
    images = AugmentedImages(dataset.split(split).to(target), batch_size=batch_size, seed=seed)
    return Task(data=images, evaluate=lambda model: accuracy(model, held_out))
