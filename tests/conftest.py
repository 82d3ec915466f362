"""Fixtures that more than one kind of test needs."""

import pytest
import torch

from flyweight.cifar import Cifar10, load_cifar10


@pytest.fixture(scope="session")
def cifar10() -> Cifar10:
    """The real CIFAR-10, downloaded when no folder or cache on this machine holds it."""
    return load_cifar10()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no accelerator here")
