"""Check that a module can be compressed at all, before any work."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from flyweight.errors import ModelError
from flyweight.modules.parametrize import check_detached

__all__ = ["IntegerLayer", "check_float", "check_model"]


class IntegerLayer(nn.Module):
    """Base of the layers that compute in integers; such a model is not compressed further."""


def check_float(model: nn.Module) -> None:
    """Raise ModelError where a stage is not finalized, or layers compute in integers.

    Example:
        >>> check_float(nn.Linear(2, 2))
    """
    check_detached(model)
    for name, module in model.named_modules():
        if isinstance(module, IntegerLayer):
            raise ModelError(
                f"layer {name!r} computes in 8 bits; compress the float model that it was made from"
            )


def check_model(model: nn.Module) -> None:
    """Raise ModelError for a model that no stage can begin with.

    It has parameters; all its tensors are dense, with a shape and values, none of these NaN or
    infinite, and there is nothing else in its state; none is computed from others by a hook. It has
    no masks or quantised weights of a stage that is not over, no layers that compute in 8 bits, and
    none compiled by torch.jit.

    Example:
        >>> check_model(nn.Linear(2, 2))
        >>> check_model(nn.ReLU())
        Traceback (most recent call last):
        flyweight.errors.ModelError: the model has no parameters, so there is nothing to compress
    """
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            what = f"layer {path!r}" if path else "the model"
            raise ModelError(
                f"{what} is compiled by torch.jit, which lets no stage see its weights; give the "
                "model that it was made from"
            )
        for leaf in _computed(module):
            name = f"{path}.{leaf}".removeprefix(".")
            raise ModelError(
                f"tensor {name!r} is computed from others, as torch.nn.utils does it in hooks for "
                "weight_norm, spectral_norm and prune; make it a parameter, with "
                "remove_weight_norm say, or delete it"
            )
    check_float(model)
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        if is_lazy(tensor):
            raise ModelError(
                f"tensor {name!r} has no shape before its lazy layer met a batch; "
                "run the model on one first"
            )
        if tensor.is_meta:
            raise ModelError(
                f"tensor {name!r} is on the meta device, which holds no values; load them on the "
                "CPU or a GPU first"
            )
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise ModelError(f"tensor {name!r} is sparse or quantised by torch; make it dense")
    if not any(parameter.numel() for parameter in model.parameters()):
        raise ModelError("the model has no parameters, so there is nothing to compress")
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise ModelError(
                f"the state of the model has {name!r}, a {type(value).__name__}, and a file holds "
                "tensors only; let get_extra_state return one"
            )
        if not value.is_floating_point():
            continue
        wide = value.float() if value.dtype.itemsize == 1 else value  # isfinite has no 8 bits
        if count := int((~torch.isfinite(wide)).sum()):
            raise ModelError(
                f"tensor {name!r} holds {count} values that are NaN or infinite; "
                "repair the checkpoint"
            )


def _computed(module: nn.Module) -> Iterator[str]:
    """Names of the tensors of a module that are computed from others, at every run or once.

    torch cannot copy them, or not any more when the module has run.
    """
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm | SpectralNorm):
            yield hook.name
        elif isinstance(hook, BasePruningMethod):
            yield hook._tensor_name
    for leaf, value in itertools.chain(vars(module).items(), module._buffers.items()):
        if isinstance(value, Tensor) and not value.is_leaf:
            yield leaf
