"""CIFAR-10, checked byte for byte whatever its source."""

from flyweight.data.cifar10 import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    Cifar10,
    Split,
    load_cifar10,
)

__all__ = ["CIFAR10_MEAN", "CIFAR10_STD", "Cifar10", "Split", "load_cifar10"]
