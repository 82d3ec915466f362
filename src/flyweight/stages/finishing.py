"""Before and after the stages: is there anything to compress, and what goes into the file."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from flyweight.batch_norm import fold_batch_norms_
from flyweight.compressed import CompressedModel, CompressedTensor
from flyweight.errors import ModelError
from flyweight.int8 import check_float
from flyweight.recipes import Recipe

__all__ = ["check_model", "finish", "rounded", "to_mantissa_bits"]


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


def finish(
    model: nn.Module,
    shared: Mapping[str, CompressedTensor],
    recipe: Recipe,
    *,
    metadata: Mapping[str, str],
) -> CompressedModel:
    """The compressed model: shared tensors as symbols and levels, all others as they are stored.

    Folds batch normalisation into two vectors a layer and rounds the other floats, if the recipe
    says so. Changes ``model``.

    Arguments:
        model: with plain weights, when all stages are over.
        shared: symbols and levels of some of its tensors, by name, as `quantize_` returns them;
            the values of these tensors.
        recipe: how the other tensors are stored.
        metadata: words for the file, such as the architecture.

    Raises ModelError where a tensor is not what its symbols and levels say, or is not there.

    Example:
        >>> from flyweight.quantization import share
        >>> layer = nn.Linear(4, 2)
        >>> shared = {"weight": share(layer.weight, bits=1)}
        >>> _ = layer.weight.data.copy_(shared["weight"].dequantize())
        >>> compressed = finish(layer, shared, Recipe(), metadata={})
        >>> [type(tensor).__name__ for tensor in compressed.tensors.values()]
        ['CompressedTensor', 'Tensor']

    Source: Han et al. 2016, "Deep compression", §3, for the symbols and levels.
    """
    if recipe.fold_batch_norm:
        fold_batch_norms_(model)
    storage: torch.dtype = getattr(torch, recipe.dense)
    state = model.state_dict(keep_vars=True)
    of_parameter = {id(_named(state, name)): tensor for name, tensor in shared.items()}
    tensors: dict[str, CompressedTensor | Tensor] = {}
    aliases: dict[str, str] = {}
    owners: dict[int, str] = {}
    for name, value in state.items():
        if id(value) in owners:
            aliases[name] = owners[id(value)]
            continue
        owners[id(value)] = name
        if id(value) in of_parameter:
            tensors[name] = _checked(name, of_parameter[id(value)], value)
        else:
            bits = recipe.dense_mantissa_bits
            tensors[name] = rounded(value.detach(), storage, mantissa_bits=bits)
    return CompressedModel(tensors, aliases, metadata)


def _named(state: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in state:
        raise ModelError(f"the model has no tensor named {name!r} to keep as symbols and levels")
    return state[name]


def _checked(name: str, tensor: CompressedTensor, weight: Tensor) -> CompressedTensor:
    """The tensor, if it is what the weight is, but for what another device computes otherwise."""
    if tensor.shape != weight.shape:
        raise ModelError(
            f"tensor {name!r} has the shape {tuple(weight.shape)} in the model, and "
            f"{tuple(tensor.shape)} as symbols and levels"
        )
    values, seen = tensor.dequantize().to(weight), weight.detach()
    if not (torch.equal(values == 0, seen == 0) and torch.allclose(values, seen)):
        raise ModelError(
            f"tensor {name!r} is not what its symbols and levels say; give those of the last stage,"
            " and let nothing train or load in between"
        )
    return tensor


def rounded(value: Tensor, storage: torch.dtype, *, mantissa_bits: int = 0) -> Tensor:
    """float32 values rounded to what ``storage`` can hold; others, and any overflow, untouched.

    They are rounded to so many bits after the first before, or not with 0.
    """
    if value.dtype != torch.float32:
        return value.clone()
    rounded = to_mantissa_bits(value, mantissa_bits) if mantissa_bits else value
    rounded = rounded.to(storage).float()
    return rounded if bool(torch.isfinite(rounded).all()) else value.clone()


def to_mantissa_bits(value: Tensor, bits: int) -> Tensor:
    """Floats rounded to ``bits`` bits after the first, to nearest, ties to even.

    ``value`` is float32 of any shape, ``bits`` from 1 to 23. What rounds up beyond the largest
    float32 becomes infinite; of a subnormal number fewer bits are left.

    Example:
        >>> to_mantissa_bits(torch.tensor([1.2, -1.3, 1.25, 1.125]), 2).tolist()
        [1.25, -1.25, 1.25, 1.0]
    """
    dropped = 23 - bits
    if not dropped:
        return value.clone()
    words = value.view(torch.int32)
    odd = (words >> dropped) & 1
    words = (words + (1 << (dropped - 1)) - 1 + odd) & -(1 << dropped)
    return words.view(torch.float32)
