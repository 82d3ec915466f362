"""Put parametrizations on the parameters of any module, and take them off."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from flyweight.errors import ModelError
from flyweight.parametrizations.learned import LearnedStepWeight, TernaryWeight
from flyweight.parametrizations.masked import MaskedWeight
from flyweight.parametrizations.quantized import BinaryWeight, FixedPointWeight
from flyweight.parametrizations.shared import SharedWeight

__all__ = ["attach_", "attached", "detach_"]

_KINDS = (
    MaskedWeight,
    SharedWeight,
    FixedPointWeight,
    LearnedStepWeight,
    TernaryWeight,
    BinaryWeight,
)


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    try:
        return model.get_submodule(path), leaf
    except AttributeError:
        raise ModelError(f"the model has no tensor named {name!r}") from None


def _dense(module: nn.Module, leaf: str) -> Any:
    """The parameter itself, also where a parametrization stands before it."""
    if parametrize.is_parametrized(module, leaf):
        return module.parametrizations[leaf].original  # type: ignore[index,union-attr]
    return getattr(module, leaf, None)


def _holders(model: nn.Module, name: str) -> list[tuple[nn.Module, str]]:
    """Every module that holds the parameter of a name, and what it is called there."""
    owner, leaf = _owner(model, name)
    parameter = _dense(owner, leaf)
    if not isinstance(parameter, nn.Parameter):
        raise ModelError(f"the model has no parameter named {name!r}")
    found = []
    for module in model.modules():
        leaves = [*module._parameters]
        if parametrize.is_parametrized(module):
            leaves += [*module.parametrizations]  # type: ignore[misc]
        found += [(module, other) for other in leaves if _dense(module, other) is parameter]
    return [
        (module, other)
        for module, other in found
        if not isinstance(module, parametrize.ParametrizationList)
    ]


def attach_(model: nn.Module, parametrizations: Mapping[str, nn.Module]) -> None:
    """Put a parametrization on each parameter named. Changes ``model``.

    Where several layers share the parameter, each of them sees the same. Raises ModelError where
    the model has no such parameter.
    """
    for name, parametrization in parametrizations.items():
        for module, leaf in _holders(model, name):
            parametrize.register_parametrization(module, leaf, parametrization, unsafe=True)


def attached(model: nn.Module) -> dict[str, nn.Module]:
    """The parametrizations that `attach_` has put on a model, by name of the parameter.

    Example:
        >>> attached(nn.Linear(2, 2))
        {}
    """
    return {
        f"{path}.{leaf}".removeprefix("."): parametrization
        for path, module in model.named_modules()
        if parametrize.is_parametrized(module)
        for leaf, some in module.parametrizations.items()
        for parametrization in some
        if isinstance(parametrization, _KINDS)
    }


def detach_(model: nn.Module, names: Iterable[str]) -> None:
    """Take the parametrizations off; what the layers saw becomes the weight. Changes ``model``."""
    for name in names:
        for module, leaf in _holders(model, name):
            # A copy of the module shares its class, from which torch takes the tensor away.
            shared = type(module)
            own = {k: v for k, v in vars(shared).items() if k not in ("__dict__", "__weakref__")}
            module.__class__ = type(shared.__name__, shared.__bases__, own)
            parametrize.remove_parametrizations(module, leaf, leave_parametrized=True)
