"""Fixtures shared by several kinds of tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from flyweight.cifar import Cifar10


settings.register_profile("flyweight", deadline=None)  # no test depends on the time it takes
settings.load_profile("flyweight")


@pytest.fixture(scope="session")
def cifar10() -> Cifar10:
    """The real CIFAR-10, downloaded when no folder or cache on this machine holds it."""
    from flyweight.cifar import load_cifar10

    return load_cifar10()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests that need an accelerator where there is none."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no accelerator here")
