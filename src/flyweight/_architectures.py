"""Registry of architectures: names that stand for functions which build a module.

Names may come from modules that are listed with `add_source`: they are imported when a name is
first asked for, so that listing them takes no time and needs no torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from flyweight.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["add_source", "architectures", "factory_named", "register_architecture"]

_FACTORIES: dict[str, Callable[[], nn.Module]] = {}
_SOURCES: list[str] = []


def add_source(module: str) -> None:
    """List a module that registers architectures when it is imported.

    Example:
        >>> add_source("flyweight.cifar")
        >>> "resnet20" in architectures()
        True
    """
    _SOURCES.append(module)


def _import_sources() -> None:
    while _SOURCES:
        importlib.import_module(_SOURCES.pop())


def register_architecture(name: str, factory: Callable[[], nn.Module]) -> None:
    """Register a factory under a name, which files may hold instead of names and shapes.

    Args:
        name: without a colon, which stands in import paths.
        factory: builds the module; called with no arguments.

    Raises:
        ModelError: the name is empty, holds a colon, or belongs to another factory.

    Example:
        >>> from torch import nn
        >>> register_architecture("docs-linear", lambda: nn.Linear(3, 2))
        >>> "docs-linear" in architectures()
        True
    """
    _import_sources()
    if not name or ":" in name:
        raise ModelError(f"{name!r} cannot name an architecture; use a word without a colon")
    if _FACTORIES.get(name, factory) is not factory:
        raise ModelError(f"architecture {name!r} is registered already; choose another name")
    _FACTORIES[name] = factory


def architectures() -> tuple[str, ...]:
    """List the registered names, in the order of registration."""
    _import_sources()
    return tuple(_FACTORIES)


def factory_named(name: str) -> Callable[[], nn.Module] | None:
    """Return the factory of a registered name, None where there is none."""
    _import_sources()
    return _FACTORIES.get(name)
