"""Example task: CIFAR-10, residual networks, and pretrained weights."""

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
from flyweight.cifar.registry import (
    architectures,
    create_model,
    load_pretrained,
    pretrained_card,
)
from flyweight.cifar.resnet import CifarResNet
from flyweight.cifar.train import ALTERNATING, STANDARD, train_resnet

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
    "create_model",
    "load_cifar10",
    "load_pretrained",
    "normalize",
    "predict",
    "pretrained_card",
    "task",
    "train_resnet",
]
