"""Example task: CIFAR-10, residual networks, and pretrained weights."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from flyweight.cifar.registry import (
    architectures,
    compressed_file,
    compressed_files,
    create_model,
    load_pretrained,
    pretrained_card,
)
from flyweight.cifar.resnet import CifarResNet

if TYPE_CHECKING:
    from flyweight.cifar.augmentation import (
        NATIVE_SIZES,
        PROGRESSIVE_SIZES,
        AugmentedImages,
        calibration_batches,
        normalize,
    )
    from flyweight.cifar.classification import Task, task
    from flyweight.cifar.dataset import (
        CIFAR10_MEAN,
        CIFAR10_STD,
        Cifar10,
        Split,
        load_cifar10,
    )
    from flyweight.cifar.evaluation import accuracy, predict
    from flyweight.cifar.train import ALTERNATING, STANDARD, train_resnet

# What opening a file does not need is imported on first use.
_LAZY = ("dataset", "augmentation", "evaluation", "classification", "train")

__all__ = [
    "ALTERNATING",
    "CIFAR10_MEAN",
    "CIFAR10_STD",
    "NATIVE_SIZES",
    "PROGRESSIVE_SIZES",
    "STANDARD",
    "AugmentedImages",
    "Cifar10",
    "CifarResNet",
    "Split",
    "Task",
    "accuracy",
    "architectures",
    "calibration_batches",
    "compressed_file",
    "compressed_files",
    "create_model",
    "load_cifar10",
    "load_pretrained",
    "normalize",
    "predict",
    "pretrained_card",
    "task",
    "train_resnet",
]


def __getattr__(name: str) -> Any:
    for module in _LAZY if name in __all__ else ():
        found = importlib.import_module(f"flyweight.cifar.{module}")
        if name in found.__all__:
            return getattr(found, name)
    if name in _LAZY:
        return importlib.import_module(f"flyweight.cifar.{name}")
    raise AttributeError(f"module 'flyweight.cifar' has no attribute {name!r}")
