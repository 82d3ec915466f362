"""Build a module from an architecture: a registered name, an import path or a factory."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from flyweight.errors import CheckpointError, ModelError

__all__ = ["Architecture", "build", "fill_"]

Architecture = str | Callable[[], nn.Module]
"""A name of `architectures()`, ``package.module:factory``, or a function that builds a module."""


def build(architecture: Architecture) -> nn.Module:
    """A fresh module of an architecture. Raises ModelError where there is none such."""
    if isinstance(architecture, str) and ":" not in architecture:
        return create_model(architecture)
    factory = _import(architecture) if isinstance(architecture, str) else architecture
    try:
        model = factory()
    except Exception as error:
        raise ModelError(f"{architecture} failed to build a module: {error!r}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{architecture} gave a {type(model).__name__}, not a torch.nn.Module")
    return model


def _import(path: str) -> Callable[[], nn.Module]:
    module_name, _, attribute = path.partition(":")
    try:
        factory: Callable[[], nn.Module] = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:  # importing runs the module, which may raise anything
        raise ModelError(
            f"architecture {path!r} cannot be imported ({error}); give package.module:factory "
            f"or one of {', '.join(architectures())}"
        ) from error
    return factory




def fill_(model: nn.Module, state: Mapping[str, Tensor], *, where: str) -> None:
    """Put ``state`` into ``model``. Raises CheckpointError where a name or shape differs."""
    own = model.state_dict()
    missing = [name for name in own if name not in state]
    surplus = [name for name in state if name not in own]
    if missing or surplus:
        defect = f"{missing[0]!r} is missing" if missing else f"{surplus[0]!r} is not known to it"
        raise CheckpointError(
            f"{where} does not fit the architecture: {defect} "
            f"({len(missing)} tensors missing, {len(surplus)} too many); "
            "name another --architecture"
        )
    for name, value in state.items():
        if value.shape != own[name].shape:
            raise CheckpointError(
                f"{where} does not fit the architecture: {name!r} has shape {tuple(value.shape)}, "
                f"not {tuple(own[name].shape)}; name another --architecture"
            )
    model.load_state_dict(dict(state))
