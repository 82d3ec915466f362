"""Where the lossy half and the lossless half meet: compressed tensors and compressed models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flyweight.coding import (
    MAX_LEVELS,
    CodedTensor,
    code_alias,
    code_lossless,
    code_shared,
    decode_dense,
    decode_shared,
    join,
)
from flyweight.container import Container
from flyweight.errors import FormatError, ModelError

__all__ = ["CompressedModel", "CompressedTensor"]

# Types that numpy lacks travel as their bits.
_CARRIED_AS = {
    torch.bfloat16: torch.uint16,
    torch.float8_e4m3fn: torch.uint8,
    torch.float8_e5m2: torch.uint8,
}


@dataclass(frozen=True, eq=False)
class CompressedTensor:
    """A tensor of few values.

    ``symbols`` are integers of the tensor's shape: 0 is an exact zero, k ≥ 1 is ``levels[k − 1]``.
    ``levels`` is 1-D, of the tensor's dtype.

    Example:
        >>> CompressedTensor(torch.tensor([[0, 2]]), torch.tensor([-1.5, 0.5])).dequantize()
        tensor([[0.0000, 0.5000]])
    """

    symbols: Tensor
    levels: Tensor

    @staticmethod
    def from_values(values: Tensor) -> CompressedTensor:
        """Symbols and ascending levels of a tensor that holds few distinct values.

        Raises ModelError for more of them than a file can hold, and values not finite.

        Example:
            >>> CompressedTensor.from_values(torch.tensor([0.5, 0.0, -1.0, 0.5])).symbols
            tensor([2, 0, 1, 2], dtype=torch.int32)
        """
        values = values.detach()
        if not bool(torch.isfinite(values).all()):
            raise ModelError("values hold NaN or infinity and cannot be levels")
        nonzero = values != 0
        levels, numbers = torch.unique(values[nonzero], return_inverse=True)
        if levels.numel() > MAX_LEVELS:
            raise ModelError(
                f"a compressed tensor has at most {MAX_LEVELS} levels; found {levels.numel()}"
            )
        symbols = torch.zeros(values.shape, dtype=torch.int32, device=values.device)
        symbols[nonzero] = (numbers + 1).to(torch.int32)
        return CompressedTensor(symbols, levels)

    @property
    def shape(self) -> torch.Size:
        """Shape of the tensor."""
        return self.symbols.shape

    @property
    def dtype(self) -> torch.dtype:
        """Type of the values."""
        return self.levels.dtype

    @property
    def sparsity(self) -> float:
        """Fraction of the elements that are exactly zero."""
        return float((self.symbols == 0).double().mean()) if self.symbols.numel() else 0.0

    def dequantize(self) -> Tensor:
        """The values, in the shape and dtype of the tensor."""
        return torch.cat([self.levels.new_zeros(1), self.levels])[self.symbols.long()]


@dataclass(frozen=True, eq=False)
class CompressedModel(Mapping[str, CompressedTensor | Tensor]):
    """Every tensor of a ``state_dict`` by name: compressed, or a plain tensor kept bit for bit.

    ``aliases`` says which names stand for the tensor of another name (tied weights, stored
    once). ``metadata`` goes into the file as text; ``architecture``, where known, lets `load`
    build the network.

    Example:
        >>> CompressedModel({"b": torch.zeros(2)}).state_dict()
        {'b': tensor([0., 0.])}
    """

    tensors: Mapping[str, CompressedTensor | Tensor]
    aliases: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> CompressedTensor | Tensor:
        return self.tensors[self.aliases.get(name, name)]

    def __iter__(self) -> Iterator[str]:
        yield from self.tensors
        yield from self.aliases

    def __len__(self) -> int:
        return len(self.tensors) + len(self.aliases)

    def state_dict(self) -> dict[str, Tensor]:
        """The values of all tensors; tied names share one tensor."""
        values = {
            name: tensor.dequantize() if isinstance(tensor, CompressedTensor) else tensor
            for name, tensor in self.tensors.items()
        }
        return values | {name: values[target] for name, target in self.aliases.items()}

    def to_container(self) -> Container:
        """Entropy-code every tensor. Raises ModelError for a dtype that a file cannot hold."""
        coded: list[CodedTensor] = []
        for name, tensor in self.tensors.items():
            if isinstance(tensor, CompressedTensor):
                coded.append(
                    code_shared(
                        name,
                        tensor.symbols.cpu().numpy(),
                        levels=_to_numpy(tensor.levels, name),
                        dtype=_dtype_name(tensor.dtype),
                    )
                )
            else:
                coded.append(
                    code_lossless(name, _to_numpy(tensor, name), dtype=_dtype_name(tensor.dtype))
                )
        places = {name: place for place, name in enumerate(self.tensors)}
        for name, target in self.aliases.items():
            place = places[target]
            coded.append(code_alias(name, coded[place], target=place))
        return Container(tensors=tuple(join(coded)), metadata=dict(self.metadata))

    @staticmethod
    def from_container(container: Container) -> CompressedModel:
        """Decode every tensor. Raises FormatError where one is damaged."""
        tensors: dict[str, CompressedTensor | Tensor] = {}
        aliases: dict[str, str] = {}
        for coded in container.tensors:
            if coded.target is not None:
                aliases[coded.name] = container.tensors[coded.target].name
            elif coded.encoding == "shared":
                symbols, levels = decode_shared(coded)
                tensors[coded.name] = CompressedTensor(
                    torch.from_numpy(symbols.astype(np.int32)), _to_torch(levels, coded.dtype)
                )
            else:
                tensors[coded.name] = _to_torch(decode_dense(coded), coded.dtype)
        return CompressedModel(tensors, aliases, dict(container.metadata))


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _to_numpy(tensor: Tensor, name: str) -> NDArray[Any]:
    tensor = tensor.detach()
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise ModelError(f"tensor {name!r} is sparse or quantised by torch; make it dense")
    tensor = tensor.cpu()
    carried = _CARRIED_AS.get(tensor.dtype)
    try:
        return (tensor if carried is None else tensor.contiguous().view(carried)).numpy()
    except TypeError as error:
        raise ModelError(f"tensor {name!r} is of {tensor.dtype}, which no file holds") from error


def _to_torch(values: NDArray[Any], dtype_name: str) -> Tensor:
    dtype = getattr(torch, dtype_name, None)
    if not isinstance(dtype, torch.dtype):
        raise FormatError(f"this version of torch has no dtype {dtype_name!r}")
    native = values.astype(values.dtype.newbyteorder("="), copy=False)
    tensor = torch.from_numpy(native.copy() if not native.flags.writeable else native)
    return tensor.view(dtype) if dtype in _CARRIED_AS else tensor
