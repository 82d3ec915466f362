"""Check that a module can be compressed, before any work."""

from __future__ import annotations

import itertools
import operator
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from flyweight.errors import ModelError, RecipeError
from flyweight.modules.parametrize import check_detached

__all__ = [
    "IntegerLayer",
    "check_config",
    "check_copyable",
    "check_fillable",
    "check_float",
    "check_model",
    "check_steps",
]


class IntegerLayer(nn.Module):
    """Base of the layers that compute in integers; such a model is not compressed further."""


def check_fillable(model: object, architecture: object) -> None:
    """Raise ModelError unless a file has one module to fill, or one architecture to build, or none.

    Example:
        >>> check_fillable(nn.Linear, None)
        Traceback (most recent call last):
        flyweight.errors.ModelError: model is the class Linear; pass an instance of it
    """
    if model is None:
        return
    if isinstance(model, type) and issubclass(model, nn.Module):
        raise ModelError(f"model is the class {model.__name__}; pass an instance of it")
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"model is a {type(model).__name__}; pass a module to fill, or a name or function as "
            "`architecture`"
        )
    if architecture is not None:
        raise ModelError("both a model and an architecture are given; pass one of them")


def check_float(model: nn.Module) -> None:
    """Raise ModelError if a pruner or quantizer is not finalized, or a layer computes in integers.

    Example:
        >>> check_float(nn.Linear(2, 2))
    """
    check_detached(model)
    for name, module in model.named_modules():
        if isinstance(module, IntegerLayer):
            raise ModelError(
                f"layer {name!r} computes in 8-bit integers; compress the float model that it was "
                "made from"
            )


def check_copyable(model: object) -> None:
    """Raise ModelError if an object is no module, or its copy would compute with its weights.

    A plain function that is set on an instance as ``forward`` is not copied with it: in the copy it
    still reads the weights of the original. Bound methods and partial functions are copied.

    Example:
        >>> check_copyable({"weight": 1})
        Traceback (most recent call last):
        flyweight.errors.ModelError: model is a dict; give a torch.nn.Module
    """
    if isinstance(model, type) and issubclass(model, nn.Module):
        raise ModelError(f"model is the class {model.__name__}; give an instance of it")
    if not isinstance(model, nn.Module):
        raise ModelError(f"model is a {type(model).__name__}; give a torch.nn.Module")
    for path, module in model.named_modules():
        if not isinstance(vars(module).get("forward"), types.FunctionType):
            continue
        state: Any = module.__getstate__()  # that of a compiled module leaves forward out
        if isinstance(state, dict) and "forward" not in state:
            continue
        subject = f"layer {path!r}" if path else "the model"
        raise ModelError(
            f"{subject} has a forward that was set on the instance, which a copy runs with the "
            "original's weights; define it in the class"
        )


def check_config(config: object, kind: type) -> None:
    """Raise RecipeError if a configuration is of another type.

    Example:
        >>> check_config({"sparsity": 0.5}, nn.Module)
        Traceback (most recent call last):
        flyweight.errors.RecipeError: config is a dict; give a Module
    """
    if not isinstance(config, kind):
        raise RecipeError(f"config is a {type(config).__name__}; give a {kind.__name__}")


def check_steps(steps: object) -> int:
    """Return a number of steps as an integer; raise ModelError if it is none, or below 0.

    Example:
        >>> check_steps("10")
        Traceback (most recent call last):
        flyweight.errors.ModelError: steps is a str; give an integer, 0 or more
    """
    try:
        number = operator.index(steps)  # type: ignore[arg-type]  # which is what it checks
    except TypeError:
        raise ModelError(f"steps is a {type(steps).__name__}; give an integer, 0 or more") from None
    if number < 0:
        raise ModelError(f"the number of steps is {number}; give 0 or more")
    return number


def check_model(model: nn.Module) -> None:
    """Raise ModelError if a model cannot be compressed.

    A model needs parameters. All tensors of its state are dense, initialized, finite and on a
    device that holds values; none is computed from others by a hook. No layer is compiled by
    torch.jit, computes in integers, has a mask or quantized weights that are not finalized, or a
    ``forward`` that a copy would run with the weights of the original.

    Example:
        >>> check_model(nn.Linear(2, 2))
        >>> check_model(nn.ReLU())
        Traceback (most recent call last):
        flyweight.errors.ModelError: the model has no parameters, so there is nothing to compress
    """
    check_copyable(model)
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            subject = f"layer {path!r}" if path else "the model"
            raise ModelError(
                f"{subject} is compiled by torch.jit, which hides its weights; give the model that "
                "it was made from"
            )
        for leaf in _computed(module):
            name = f"{path}.{leaf}".removeprefix(".")
            raise ModelError(
                f"tensor {name!r} is computed from others by a hook, as weight_norm, spectral_norm "
                "and prune of torch.nn.utils do; make it a parameter, for example with "
                "remove_weight_norm, or delete it"
            )
    check_float(model)
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        _check_dense(name, tensor)
    if not any(parameter.numel() for parameter in model.parameters()):
        raise ModelError("the model has no parameters, so there is nothing to compress")
    for name, value in model.state_dict().items():
        _check_finite(name, value)


def _check_dense(name: str, tensor: Tensor) -> None:
    if is_lazy(tensor):
        raise ModelError(
            f"tensor {name!r} of a lazy layer has no shape yet; run the model on one batch first"
        )
    if tensor.is_meta:
        raise ModelError(
            f"tensor {name!r} is on the meta device, which holds no values; load them on the CPU "
            "or a GPU first"
        )
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise ModelError(f"tensor {name!r} is sparse or quantized by torch; make it dense")


def _check_finite(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise ModelError(
            f"the state of the model holds {name!r}, a {type(value).__name__}, and a file holds "
            "tensors only; return a tensor from get_extra_state"
        )
    if not value.is_floating_point():
        return
    wide = value.float() if value.dtype.itemsize == 1 else value  # isfinite lacks 8-bit floats
    if count := int((~torch.isfinite(wide)).sum()):
        raise ModelError(
            f"tensor {name!r} holds {count} values that are NaN or infinite; repair the checkpoint"
        )


def _computed(module: nn.Module) -> Iterator[str]:
    """Yield the names of the tensors of a module that are computed from others.

    torch cannot copy them, some of them only after the module has run.
    """
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm | SpectralNorm):
            yield hook.name
        elif isinstance(hook, BasePruningMethod):
            yield hook._tensor_name
    for leaf, value in itertools.chain(vars(module).items(), module._buffers.items()):
        if isinstance(value, Tensor) and not value.is_leaf:
            yield leaf
