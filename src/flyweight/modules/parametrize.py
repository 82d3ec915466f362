"""Attach parametrizations to the parameters of any module, and remove them."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from flyweight.errors import ModelError

__all__ = [
    "WeightParametrization",
    "attach_",
    "attached",
    "check_detached",
    "check_plain",
    "dense_weight",
    "detach_",
    "first_revived",
    "is_plain",
    "straight_through",
]

_ORDER = "_flyweight_parameter_order"


class WeightParametrization(nn.Module):
    """Base of the parametrizations that pruning and quantization attach to weights."""


Holders = dict[nn.Parameter, list[tuple[nn.Module, str]]]


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    try:
        return model.get_submodule(path), leaf
    except AttributeError:
        raise ModelError(f"the model has no tensor named {name!r}") from None


def _dense(module: nn.Module, leaf: str) -> Any:
    """Return the parameter itself, also behind a parametrization."""
    if parametrize.is_parametrized(module, leaf):
        # That of torch's weight_norm has two tensors in its place, original0 and original1.
        return getattr(module.parametrizations[leaf], "original", None)  # type: ignore[index]
    return getattr(module, leaf, None)


def _holders(model: nn.Module) -> Holders:
    """Return every module that holds a parameter, and its name there, for each parameter."""
    found: Holders = defaultdict(list)
    for module in model.modules():
        if isinstance(module, parametrize.ParametrizationList):
            continue
        leaves = [*module._parameters]
        if parametrize.is_parametrized(module):
            leaves += [*module.parametrizations]  # type: ignore[misc]
        for leaf in leaves:
            parameter = _dense(module, leaf)
            if parameter is not None:
                found[parameter].append((module, leaf))
    return found


def dense_weight(model: nn.Module, name: str) -> nn.Parameter:
    """Return the named parameter that the optimizer trains, also behind a parametrization.

    Raises:
        ModelError: the model has no such parameter.

    Example:
        >>> dense_weight(nn.Linear(2, 1), "weight").shape
        torch.Size([1, 2])
    """
    parameter = _dense(*_owner(model, name))
    if not isinstance(parameter, nn.Parameter):
        raise ModelError(f"the model has no parameter named {name!r}")
    return parameter


def attach_(model: nn.Module, parametrizations: Mapping[str, nn.Module]) -> None:
    """Attach a parametrization to each named parameter. Changes ``model``.

    Layers that share a parameter share its parametrization.

    Raises:
        ModelError: the model has no such parameter, the parameter has a parametrization that is
            not flyweight's, or a mask has another shape; nothing is changed then.

    Example:
        >>> class Doubled(WeightParametrization):
        ...     def forward(self, weight: Tensor) -> Tensor:
        ...         return 2 * weight
        >>> model = nn.Linear(2, 1)
        >>> attach_(model, {"weight": Doubled()})
        >>> torch.equal(model.weight, 2 * dense_weight(model, "weight"))
        True
    """
    check_plain(model, parametrizations)
    for name, parametrization in parametrizations.items():
        kind = "symbols" if hasattr(parametrization, "symbols") else "mask"
        found, expected = getattr(parametrization, kind, None), dense_weight(model, name).shape
        if isinstance(found, Tensor) and found.shape != expected:
            raise ModelError(
                f"tensor {name!r} has the shape {tuple(expected)}, and its {kind} "
                f"{tuple(found.shape)}; give one of the shape of the tensor"
            )
    holders = _holders(model)
    for name, parametrization in parametrizations.items():
        for module, leaf in holders[dense_weight(model, name)]:
            if _ORDER not in vars(module):  # torch appends a parameter again when it detaches it
                setattr(module, _ORDER, tuple(module._parameters))
            parametrize.register_parametrization(module, leaf, parametrization, unsafe=True)


def attached(model: nn.Module) -> dict[str, nn.Module]:
    """Return the parametrizations that `attach_` attached to a model, by name of the parameter.

    Example:
        >>> attached(nn.Linear(2, 2))
        {}
    """
    return {
        f"{path}.{leaf}".removeprefix("."): parametrization
        for path, module in model.named_modules()
        if parametrize.is_parametrized(module)
        for leaf, parametrizations in module.parametrizations.items()
        for parametrization in parametrizations
        if isinstance(parametrization, WeightParametrization)
    }


def check_detached(model: nn.Module) -> None:
    """Raise ModelError if a pruner or quantizer that is not finalized holds a weight.

    Example:
        >>> check_detached(nn.Linear(2, 2))
    """
    for name, parametrization in attached(model).items():
        raise ModelError(
            f"tensor {name!r} has a {type(parametrization).__name__} attached, of a Pruner or "
            "Quantizer that is not finalized; call its finalize() first"
        )


def _foreign(model: nn.Module, name: str, holders: Holders) -> nn.Module | None:
    """Return a parametrization of a parameter that is not flyweight's; None if there is none."""
    owner, _ = _owner(model, name)
    lists = [owner] if isinstance(owner, parametrize.ParametrizationList) else []
    for module, leaf in holders[dense_weight(model, name)]:
        if parametrize.is_parametrized(module, leaf):
            lists.append(module.parametrizations[leaf])  # type: ignore[index,arg-type]
    for parametrization in (one for parametrizations in lists for one in parametrizations):
        if not isinstance(parametrization, WeightParametrization):
            return parametrization
    return None


def _seen_name(name: str) -> str:
    """Return the name that a layer has for a tensor behind a parametrization."""
    return name.rpartition(".original")[0].replace("parametrizations.", "") or name


def is_plain(model: nn.Module, names: Iterable[str]) -> dict[str, bool]:
    """Tell for each named parameter whether no parametrization but flyweight's is on it.

    Example:
        >>> model = nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2))
        >>> is_plain(model, ["bias", "parametrizations.weight.original"])
        {'bias': True, 'parametrizations.weight.original': False}
    """
    holders = _holders(model)
    return {name: _foreign(model, name, holders) is None for name in names}


def check_plain(
    model: nn.Module, names: Iterable[str], *, advice: str = "or exclude the tensor"
) -> None:
    """Raise ModelError if a named parameter has a parametrization that is not flyweight's.

    ``advice`` ends the sentence.

    Example:
        >>> model = nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2))
        >>> check_plain(model, ["bias"])
        >>> check_plain(model, ["parametrizations.weight.original"])
        Traceback (most recent call last):
        flyweight.errors.ModelError: tensor 'weight' has a parametrization, _SpectralNorm, ...
    """
    holders = _holders(model)
    for name in names:
        if (foreign := _foreign(model, name, holders)) is not None:
            raise ModelError(
                f"tensor {_seen_name(name)!r} has a parametrization, {type(foreign).__name__}, "
                "between it and its layer; remove it with torch.nn.utils.parametrize, "
                f"{advice}"
            )


def detach_(model: nn.Module, names: Iterable[str]) -> None:
    """Remove parametrizations; what the layers saw becomes the weights. Changes ``model``.

    The parameters of each module are in the order again that they had before `attach_`, so that
    ``parameters()`` and ``state_dict()`` are those of the model given.

    Raises:
        ModelError: there is none to remove.

    Example:
        >>> class Doubled(WeightParametrization):
        ...     def forward(self, weight: Tensor) -> Tensor:
        ...         return 2 * weight
        >>> model = nn.Linear(2, 1)
        >>> attach_(model, {"weight": Doubled()})
        >>> detach_(model, ["weight"])
        >>> attached(model), [*model.state_dict()]
        ({}, ['weight', 'bias'])
    """
    holders = _holders(model)
    for name in names:
        for module, leaf in holders[dense_weight(model, name)]:
            if not parametrize.is_parametrized(module, leaf):
                raise ModelError(f"tensor {name!r} is a plain weight already; it was finalized")
            # A copy of the module shares its class, from which torch takes the tensor away.
            shared = type(module)
            own = {k: v for k, v in vars(shared).items() if k not in ("__dict__", "__weakref__")}
            module.__class__ = type(shared.__name__, shared.__bases__, own)
            parametrize.remove_parametrizations(module, leaf, leave_parametrized=True)
            _restore_order_(module)


def _is_attached(module: nn.Module) -> bool:
    """Tell whether any parameter of a module, its children excepted, has a parametrization."""
    return parametrize.is_parametrized(module) and any(
        isinstance(parametrization, WeightParametrization)
        for parametrizations in module.parametrizations.values()  # type: ignore[operator]
        for parametrization in parametrizations
    )


def _restore_order_(module: nn.Module) -> None:
    """Put the parameters of a module in the order that they had before `attach_`."""
    found = module._parameters
    order = [leaf for leaf in vars(module).get(_ORDER, ()) if leaf in found]
    ordered = {leaf: found[leaf] for leaf in [*order, *found]}
    found.clear()
    found.update(ordered)
    if _ORDER in vars(module) and not _is_attached(module):
        delattr(module, _ORDER)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(mask)
        return torch.where(mask, values, torch.zeros((), dtype=values.dtype, device=values.device))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        (mask,) = ctx.saved_tensors
        # Not a product, which would make NaN of an infinite gradient.
        zero = torch.zeros((), dtype=gradient.dtype, device=gradient.device)
        return torch.where(mask, gradient, zero), None, None


def straight_through(weight: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Return ``values`` where ``mask`` is True, else 0, with a straight-through gradient.

    ``weight`` gets the gradient of the result where the mask is True, and 0 elsewhere. All three
    have the same shape.

    Example:
        >>> weight = torch.tensor([0.9, 0.2], requires_grad=True)
        >>> seen = straight_through(weight, torch.tensor([1.0, 5.0]), torch.tensor([True, False]))
        >>> seen.sum().backward()
        >>> seen.tolist(), weight.grad.tolist()
        ([1.0, 0.0], [1.0, 0.0])

    Source: Bengio et al. 2013, "Estimating or propagating gradients through stochastic neurons".
    """
    seen: Tensor = _StraightThrough.apply(weight, values, mask)  # type: ignore[no-untyped-call]
    return seen


@torch.no_grad()
def first_revived(model: nn.Module, masks: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first weight with a value where its mask is False, else None.

    Args:
        model: is not run; the weights are read as its layers see them.
        masks: bool tensors by name and of the shape of each weight, on any device.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> first_revived(layer, {"weight": torch.tensor([[True, False]])})
        'weight'
        >>> first_revived(layer, {"weight": torch.tensor([[True, True]])})
    """
    for name, mask in masks.items():
        seen = operator.attrgetter(name)(model)
        if bool(seen[~mask.to(seen.device)].any()):
            return name
    return None
