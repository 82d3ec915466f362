"""Collect the state of a module: quantized, rounded or bit for bit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from flyweight.compressed.model import CompressedModel
from flyweight.compressed.tensor import CompressedTensor
from flyweight.errors import ModelError

__all__ = ["compress_module", "rounded", "to_mantissa_bits"]


def compress_module(
    model: nn.Module,
    quantized: Mapping[str, CompressedTensor] | None = None,
    *,
    float_dtype: str = "float32",
    float_mantissa_bits: int = 0,
    metadata: Mapping[str, str] | None = None,
) -> CompressedModel:
    """Collect the state of a module: quantized weights as symbols and levels, the rest as floats.

    Args:
        model: a module with plain weights, all stages finalized; it is not changed.
        quantized: symbols and levels of some of its parameters, by name; their values are those
            of these parameters.
        float_dtype: type that the other float32 tensors are rounded to, "bfloat16", "float16" or
            "float32"; they stay float32.
        float_mantissa_bits: bits of their mantissa; 0 for all that the type has.
        metadata: strings for the file, such as the architecture.

    Raises:
        ModelError: a tensor is not what its symbols and levels say, or is missing.

    Example:
        >>> compressed = compress_module(nn.Linear(4, 2))
        >>> [type(tensor).__name__ for tensor in compressed.tensors.values()]
        ['Tensor', 'Tensor']

    Source: Han et al. 2016, "Deep compression", §3, for the symbols and levels.
    """
    storage: torch.dtype = getattr(torch, float_dtype)
    state = model.state_dict(keep_vars=True)
    of_parameter = {id(_named(state, name)): t for name, t in (quantized or {}).items()}
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
            tensors[name] = rounded(value.detach(), storage, mantissa_bits=float_mantissa_bits)
    return CompressedModel(tensors, aliases, metadata or {})


def _named(state: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in state:
        raise ModelError(f"the model has no tensor named {name!r} to store as symbols and levels")
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
    """Round float32 values to those of a narrower dtype; they stay float32.

    The result is a tensor of its own. It has the values unchanged where the dtype is not float32,
    and where one would move by more than the precision rounded to, relative to the largest
    magnitude of the tensor: where it overflows, or where all are so small that the narrower dtype
    has few bits left for them or makes them 0, as float16 does to weights of 1e-8.

    Args:
        value: a tensor of any shape.
        storage: the narrower dtype.
        mantissa_bits: bits that the mantissa is rounded to beforehand; 0 for all.
    """
    if value.dtype != torch.float32:
        return value.clone()
    narrow = to_mantissa_bits(value, mantissa_bits) if mantissa_bits else value.clone()
    narrow = narrow.to(storage).float()
    precision = torch.finfo(storage).eps
    if mantissa_bits:
        precision = max(precision, 2.0**-mantissa_bits)
    largest = value.abs().amax() if value.numel() else 0.0
    near = (narrow - value).abs() <= precision * largest  # False for NaN
    return narrow if bool(near.all()) else value.clone()


def to_mantissa_bits(value: Tensor, bits: int) -> Tensor:
    """Round floats to ``bits`` bits of the mantissa after the first, to nearest, ties to even.

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
