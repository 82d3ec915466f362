"""The example: CIFAR-10, residual networks, pretrained weights."""

from flyweight.cifar.architectures import (
    architectures,
    create_model,
    load_pretrained,
    pretrained_card,
)
from flyweight.cifar.augmentation import (
    augment,
    calibration_batches,
    normalize,
    training_batches,
)
from flyweight.cifar.dataset import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    Cifar10,
    Split,
    load_cifar10,
    validation_indices,
)
from flyweight.cifar.evaluation import accuracy, predict
from flyweight.cifar.resnet import (
    CifarResNet,
    Shortcut,
)
from flyweight.cifar.sources import (
    Arrays,
    Progress,
    fetch_npm,
    fetch_official,
    read_batches,
)
from flyweight.cifar.train import (
    train_resnet,
)

__all__ = [
    "Arrays",
    "CIFAR10_MEAN",
    "CIFAR10_STD",
    "Cifar10",
    "CifarResNet",
    "Progress",
    "Shortcut",
    "Split",
    "accuracy",
    "architectures",
    "augment",
    "calibration_batches",
    "create_model",
    "fetch_npm",
    "fetch_official",
    "load_cifar10",
    "load_pretrained",
    "normalize",
    "predict",
    "pretrained_card",
    "read_batches",
    "train_resnet",
    "training_batches",
    "validation_indices",
]
