"""Put parametrizations on the parameters of any module, and take them off."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import operator

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
    "straight_through",
]


class WeightParametrization(nn.Module):
    """Base of the parametrizations that pruning and quantization put on weights."""



Holders = dict[nn.Parameter, list[tuple[nn.Module, str]]]


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    try:
        return model.get_submodule(path), leaf
    except AttributeError:
        raise ModelError(f"the model has no tensor named {name!r}") from None


def _dense(module: nn.Module, leaf: str) -> Any:
    """The parameter itself, also where a parametrization stands before it."""
    if parametrize.is_parametrized(module, leaf):
        # That of torch's weight_norm has two tensors in its place, original0 and original1.
        return getattr(module.parametrizations[leaf], "original", None)  # type: ignore[index]
    return getattr(module, leaf, None)


def _holders(model: nn.Module) -> Holders:
    """Every module that holds a parameter, and what it is called there, for each parameter."""
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
    """The parameter of a name that the optimiser trains, also behind a parametrization.

    Raises ModelError where the model has no such parameter.

    Example:
        >>> import torch
        >>> model = nn.Linear(2, 1)
        >>> attach_(model, {"weight": MaskedWeight(torch.tensor([[False, True]]))})
        >>> dense_weight(model, "weight").all().item(), model.weight.all().item()
        (True, False)
    """
    parameter = _dense(*_owner(model, name))
    if not isinstance(parameter, nn.Parameter):
        raise ModelError(f"the model has no parameter named {name!r}")
    return parameter


def attach_(model: nn.Module, parametrizations: Mapping[str, nn.Module]) -> None:
    """Put a parametrization on each parameter named. Changes ``model``.

    Where several layers share the parameter, each of them sees the same. Raises ModelError where
    the model has no such parameter, it has a parametrization that is none of flyweight's, or a mask
    has another shape; nothing is changed then.

    Example:
        >>> import torch
        >>> model = nn.Linear(2, 1)
        >>> attach_(model, {"weight": MaskedWeight(torch.tensor([[False, True]]))})
        >>> (model.weight != 0).tolist()
        [[False, True]]
    """
    check_plain(model, parametrizations)
    for name, parametrization in parametrizations.items():
        kind = "symbols" if hasattr(parametrization, "symbols") else "mask"
        found, wanted = getattr(parametrization, kind, None), dense_weight(model, name).shape
        if isinstance(found, Tensor) and found.shape != wanted:
            raise ModelError(
                f"tensor {name!r} has the shape {tuple(wanted)}, and its {kind} "
                f"{tuple(found.shape)}; give one of the shape of the tensor"
            )
    holders = _holders(model)
    for name, parametrization in parametrizations.items():
        for module, leaf in holders[dense_weight(model, name)]:
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
        if isinstance(parametrization, WeightParametrization)
    }


def check_detached(model: nn.Module) -> None:
    """Raise ModelError where a stage that is not over has a parametrization on a weight.

    Example:
        >>> check_detached(nn.Linear(2, 2))
    """
    for name, parametrization in attached(model).items():
        raise ModelError(
            f"tensor {name!r} has a {type(parametrization).__name__} of another stage on it; "
            "finalize that stage first"
        )


def check_plain(
    model: nn.Module, names: Iterable[str], *, advice: str = "or leave the tensor out"
) -> None:
    """Raise ModelError where a parameter named has a parametrization that is none of flyweight's.

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
        owner, _ = _owner(model, name)
        lists = [owner] if isinstance(owner, parametrize.ParametrizationList) else []
        for module, leaf in holders[dense_weight(model, name)]:
            if parametrize.is_parametrized(module, leaf):
                lists.append(module.parametrizations[leaf])  # type: ignore[index,arg-type]
        for kind in (parametrization for some in lists for parametrization in some):
            if not isinstance(kind, WeightParametrization):
                seen = name.rpartition(".original")[0].replace("parametrizations.", "") or name
                raise ModelError(
                    f"tensor {seen!r} has a parametrization, {type(kind).__name__}, between it and "
                    f"its layer; take it off with torch.nn.utils.parametrize, {advice}"
                )


def detach_(model: nn.Module, names: Iterable[str]) -> None:
    """Take the parametrizations off; what the layers saw becomes the weight. Changes ``model``.

    Raises ModelError where there is none to take off.

    Example:
        >>> import torch
        >>> model = nn.Linear(2, 1)
        >>> attach_(model, {"weight": MaskedWeight(torch.tensor([[False, True]]))})
        >>> detach_(model, ["weight"])
        >>> attached(model), model.weight[0, 0].item()
        ({}, 0.0)
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


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(mask)
        return torch.where(mask, values, torch.zeros((), dtype=values.dtype, device=values.device))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        (mask,) = ctx.saved_tensors
        return gradient * mask, None, None


def straight_through(weight: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """``values`` where ``mask`` is True and exactly 0 elsewhere, to be trained as ``weight``.

    ``weight`` gets the gradient of what is returned where the mask is True, and none elsewhere. All
    three have the same shape.

    Example:
        >>> weight = torch.tensor([0.9, 0.2], requires_grad=True)
        >>> seen = straight_through(weight, torch.tensor([1.0, 5.0]), torch.tensor([True, False]))
        >>> seen.sum().backward()
        >>> seen.tolist(), weight.grad.tolist()
        ([1.0, 0.0], [1.0, 0.0])

    Source: Bengio et al. 2013, "Estimating or propagating gradients through stochastic neurons".
    """
    seen: Tensor = _Through.apply(weight, values, mask)  # type: ignore[no-untyped-call]
    return seen


@torch.no_grad()
def first_revived(model: nn.Module, kept: Mapping[str, Tensor]) -> str | None:
    """The first weight that has a value where its mask, bool, is False; None if there is none.

    Arguments:
        model: runs nothing; what its layers see, through any parametrizations, is looked at.
        kept: masks by name of the weight, of its shape, on any device.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> first_revived(layer, {"weight": torch.tensor([[True, False]])})
        'weight'
        >>> first_revived(layer, {"weight": torch.tensor([[True, True]])})
    """
    for name, mask in kept.items():
        seen = operator.attrgetter(name)(model)
        if bool(seen[~mask.to(seen.device)].any()):
            return name
    return None
