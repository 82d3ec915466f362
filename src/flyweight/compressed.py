"""Where the lossy half and the lossless half meet: compressed tensors and compressed models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flyweight.coding import (
    MAX_LEVELS,
    CodedTensor,
    encode_alias,
    encode_lossless,
    encode_shared,
    decode_channels,
    decode_dense,
    decode_shared,
    join,
)
from flyweight.coding.channels import SCALED_DTYPES
from flyweight.format import Container
from flyweight.errors import FormatError, ModelError

__all__ = [
    "CompressedModel",
    "CompressedTensor",
    "by_channel",
    "compress_module",
    "rounded",
    "to_mantissa_bits",
]

# Types that numpy lacks travel as their bits.
_CARRIED_AS = {
    torch.bfloat16: torch.uint16,
    torch.float8_e4m3fn: torch.uint8,
    torch.float8_e5m2: torch.uint8,
}


def by_channel(levels: Tensor, scales: Tensor, offsets: Tensor | None) -> Tensor:
    """Levels times the scales of their channels, plus the offsets, as `CompressedTensor` has it.

    ``levels`` has any shape; ``scales`` and ``offsets`` are 1-D, one for each place along its first
    axis, and of its dtype.

    Example:
        >>> by_channel(torch.tensor([[1.0], [2.0]]), torch.tensor([3.0, 0.5]), None).tolist()
        [[3.0], [1.0]]
    """
    along = (-1, *[1] * (levels.ndim - 1))
    wide = torch.promote_types(levels.dtype, torch.float32)
    values = levels.to(wide) * scales.to(wide).view(along)
    if offsets is not None:
        values = values + offsets.to(wide).view(along)
    return values.to(levels.dtype)


@dataclass(frozen=True, eq=False)
class CompressedTensor:
    """A tensor of few values, or of few values to a channel.

    Attributes:
        symbols: integers of the tensor's shape: 0 is an exact zero, k ≥ 1 is ``levels[k − 1]``.
        levels: 1-D, of the tensor's dtype.
        scales: where the channels, along the first axis, have scales: 1-D, one for each, of the
            tensor's dtype. The value is then ``levels[k − 1] * scales[channel]``.
        offsets: the same, added to that; only with scales. An exact zero stays one.

    Scales and offsets are applied in float32, or float64 if that is the dtype, each operation
    rounded to nearest; values of 16 bits are rounded again at the end.

    Raises ModelError for scales or offsets of another length or dtype, and values of another dtype
    than float16, bfloat16, float32 and float64 that have any.

    Example:
        >>> CompressedTensor(torch.tensor([[0, 2]]), torch.tensor([-1.5, 0.5])).dequantize()
        tensor([[0.0000, 0.5000]])
        >>> symbols, scales = torch.tensor([[1, 2], [0, 2]]), torch.tensor([1.0, 0.25])
        >>> CompressedTensor(symbols, torch.tensor([-1.0, 1.0]), scales).dequantize()
        tensor([[-1.0000,  1.0000],
                [ 0.0000,  0.2500]])
    """

    symbols: Tensor
    levels: Tensor
    scales: Tensor | None = None
    offsets: Tensor | None = None

    def __post_init__(self) -> None:
        if self.scales is None and self.offsets is not None:
            raise ModelError("a compressed tensor has offsets of its channels and no scales")
        for what, table in (("scales", self.scales), ("offsets", self.offsets)):
            if table is None:
                continue
            if _dtype_name(self.dtype) not in SCALED_DTYPES or table.dtype != self.dtype:
                raise ModelError(f"values of {self.dtype} cannot have {what} of {table.dtype}")
            if not self.shape or table.shape != self.shape[:1]:
                raise ModelError(
                    f"a tensor of shape {tuple(self.shape)} has one of the {what} for each place "
                    f"along its first axis; found shape {tuple(table.shape)}"
                )

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
        """Fraction of the elements that are exactly zero, by their symbol or by their value."""
        by_symbol = self.scales is None and bool((self.levels != 0).all())
        zeros = self.symbols == 0 if by_symbol else self.dequantize() == 0
        return float(zeros.double().mean()) if zeros.numel() else 0.0

    def dequantize(self) -> Tensor:
        """The values, in the shape and dtype of the tensor."""
        symbols = self.symbols.long()
        values = torch.cat([self.levels.new_zeros(1), self.levels])[symbols]
        if self.scales is None:
            return values
        return torch.where(symbols == 0, values, by_channel(values, self.scales, self.offsets))

    def with_tables(self, function: Callable[[Tensor], Tensor]) -> CompressedTensor:
        """The same symbols, with a function of the levels, of the scales and of the offsets.

        Example:
            >>> tensor = CompressedTensor(torch.tensor([1, 2]), torch.tensor([0.3, 0.5]))
            >>> tensor.with_tables(torch.neg).dequantize()
            tensor([-0.3000, -0.5000])
        """
        return CompressedTensor(
            self.symbols,
            function(self.levels),
            None if self.scales is None else function(self.scales),
            None if self.offsets is None else function(self.offsets),
        )


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
                    encode_shared(
                        name,
                        tensor.symbols.cpu().numpy(),
                        levels=_to_numpy(tensor.levels, name),
                        scales=None if tensor.scales is None else _to_numpy(tensor.scales, name),
                        offsets=None if tensor.offsets is None else _to_numpy(tensor.offsets, name),
                        dtype=_dtype_name(tensor.dtype),
                    )
                )
            else:
                coded.append(
                    encode_lossless(name, _to_numpy(tensor, name), dtype=_dtype_name(tensor.dtype))
                )
        places = {name: place for place, name in enumerate(self.tensors)}
        for name, target in self.aliases.items():
            place = places[target]
            coded.append(encode_alias(name, coded[place], target=place))
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
                scales, offsets = decode_channels(coded)
                tensors[coded.name] = CompressedTensor(
                    torch.from_numpy(symbols.astype(np.int32)),
                    _to_torch(levels, coded.dtype),
                    None if scales is None else _to_torch(scales, coded.dtype),
                    None if offsets is None else _to_torch(offsets, coded.dtype),
                )
            else:
                tensors[coded.name] = _to_torch(decode_dense(coded), coded.dtype)
        return CompressedModel(tensors, aliases, dict(container.metadata))


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _to_numpy(tensor: Tensor, name: str) -> NDArray[Any]:
    if not isinstance(tensor, Tensor):
        raise ModelError(
            f"tensor {name!r} is a {type(tensor).__name__}, and a file holds tensors only; "
            "leave it out"
        )
    tensor = tensor.detach()
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise ModelError(f"tensor {name!r} is sparse or quantised by torch; make it dense")
    if tensor.is_meta:
        raise ModelError(f"tensor {name!r} is on the meta device and holds no values; load them")
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
        float_mantissa_bits: bits of their mantissa that are kept; 0 for all that the type has.
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
