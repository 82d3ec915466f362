"""Compressed models: the state of a module as compressed and plain tensors, and its file."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flyweight.coding import (
    CodedTensor,
    UncodedTensor,
    decode_channels,
    decode_dense,
    decode_shared,
    encode_alias,
    encode_tensors,
    prepare_lossless,
    prepare_shared,
)
from flyweight.compressed.conversion import dtype_name, gradual_underflow, to_numpy, to_torch
from flyweight.compressed.tensor import CompressedTensor
from flyweight.errors import FormatError, ModelError
from flyweight.format import Container, Reader, Shapes, dumps
from flyweight.modules import Architecture, architectures, build, names_and_shapes

__all__ = ["CompressedModel", "give_shapes_"]


@dataclass(frozen=True, eq=False)
class CompressedModel(Mapping[str, CompressedTensor | Tensor]):
    """All tensors of a state dict by name: compressed, or plain and stored bit for bit.

    Attributes:
        tensors: by name, in the order of the file.
        aliases: names that stand for the tensor of another name (tied weights, stored once).
        metadata: strings for the file; ``architecture``, if registered, lets `load` build the
            network, and its names and shapes need not be stored.
        report: what a compression reached, if it was measured.

    Example:
        >>> CompressedModel({"b": torch.zeros(2)}).state_dict()
        {'b': tensor([0., 0.])}
    """

    tensors: Mapping[str, CompressedTensor | Tensor]
    aliases: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    report: Any = None

    def __getitem__(self, name: str) -> CompressedTensor | Tensor:
        return self.tensors[self.aliases.get(name, name)]

    def __iter__(self) -> Iterator[str]:
        yield from self.tensors
        yield from self.aliases

    def __len__(self) -> int:
        return len(self.tensors) + len(self.aliases)

    def __repr__(self) -> str:
        quantized = sum(isinstance(tensor, CompressedTensor) for tensor in self.tensors.values())
        return f"CompressedModel({len(self)} tensors, {quantized} of them quantized)"

    def state_dict(self) -> dict[str, Tensor]:
        """Return the values of all tensors; tied names share one tensor."""
        values = {
            name: tensor.dequantize() if isinstance(tensor, CompressedTensor) else tensor
            for name, tensor in self.tensors.items()
        }
        return values | {name: values[target] for name, target in self.aliases.items()}

    def to_bytes(self) -> bytes:
        """Return the bytes of the ``.fly`` file; they are computed at the first call.

        Raises:
            ModelError: a tensor is of a dtype that a file cannot hold, or the file would be too
                short for the elements it stands for.

        Example:
            >>> CompressedModel({"b": torch.zeros(2)}).to_bytes()[:4]
            b'FLYW'
        """
        return self._bytes

    def with_report(self, report: Any) -> CompressedModel:
        """Return the same compressed model with a report; what was encoded is not encoded again."""
        found = dataclasses.replace(self, report=report)
        if "_bytes" in self.__dict__:
            found.__dict__["_bytes"] = self._bytes
        return found

    @functools.cached_property
    def _bytes(self) -> bytes:
        architecture = self.metadata.get("architecture")
        if architecture not in architectures():
            return dumps(self.to_container())
        known = names_and_shapes(build(architecture))
        place = {name: number for number, name in enumerate(known)}
        ordered = sorted(self.tensors, key=lambda name: place.get(name, len(place)))
        tensors = {name: self.tensors[name] for name in ordered}
        container = dataclasses.replace(self, tensors=tensors).to_container()
        shapes = [(tensor.name, tensor.shape) for tensor in container.tensors]
        return dumps(container, bare=shapes == list(known.items()))

    @staticmethod
    def from_bytes(data: bytes, *, architecture: Architecture | None = None) -> CompressedModel:
        """Decode the bytes of a ``.fly`` file.

        Args:
            data: the whole file.
            architecture: gives names and shapes where the file leaves them to an architecture
                that is not registered.

        Raises:
            FormatError: the file is damaged.
            ModelError: it leaves names and shapes to an architecture that is not known.

        Example:
            >>> compressed = CompressedModel({"b": torch.tensor([0.5, 1.0])})
            >>> CompressedModel.from_bytes(compressed.to_bytes())["b"]
            tensor([0.5000, 1.0000])
        """
        with Reader(bytes(data)) as reader:
            give_shapes_(reader, architecture, where="the file")
            tensors = tuple(reader.tensors())
            reader.verify()
            return CompressedModel.from_container(Container(tensors, dict(reader.metadata)))

    @gradual_underflow()
    def to_container(self) -> Container:
        """Encode all tensors. Raises `ModelError` for a dtype that a file cannot hold."""
        places = {name: place for place, name in enumerate(self.tensors)}
        uncoded: list[UncodedTensor | CodedTensor] = [
            _prepared(name, tensor) for name, tensor in self.tensors.items()
        ]
        for name, target in self.aliases.items():
            if target not in places:
                raise ModelError(f"alias {name!r} stands for {target!r}, which is no tensor")
            uncoded.append(encode_alias(name, uncoded[places[target]], target=places[target]))
        return Container(tensors=tuple(encode_tensors(uncoded)), metadata=dict(self.metadata))

    @staticmethod
    @gradual_underflow()
    def from_container(container: Container) -> CompressedModel:
        """Decode all tensors. Raises `FormatError` where one is damaged."""
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
                    to_torch(levels, coded.dtype),
                    None if scales is None else to_torch(scales, coded.dtype),
                    None if offsets is None else to_torch(offsets, coded.dtype),
                )
            else:
                tensors[coded.name] = to_torch(decode_dense(coded), coded.dtype)
        return CompressedModel(tensors, aliases, dict(container.metadata))


def _prepared(name: str, tensor: CompressedTensor | Tensor) -> UncodedTensor:
    if not isinstance(tensor, CompressedTensor):
        return prepare_lossless(name, to_numpy(tensor, name), dtype=dtype_name(tensor.dtype))
    return prepare_shared(
        name,
        to_numpy(tensor.symbols, name),
        levels=to_numpy(tensor.levels, name),
        scales=None if tensor.scales is None else to_numpy(tensor.scales, name),
        offsets=None if tensor.offsets is None else to_numpy(tensor.offsets, name),
        dtype=dtype_name(tensor.dtype),
    )


def give_shapes_(
    reader: Reader,
    architecture: Architecture | None,
    *,
    where: str,
    shapes: Shapes | None = None,
) -> None:
    """Give a reader the names and shapes that its file leaves out, if it does.

    Args:
        reader: of the file.
        architecture: of the file; None takes the name that the file holds, if it is registered.
            Nothing that a file names is imported.
        where: names the file in errors.
        shapes: names and shapes of a module that the caller has; where they are those of the file,
            nothing is built.

    Raises:
        ModelError: the names and shapes are not known.
        FormatError: they are those of another architecture.
    """
    if not reader.bare:
        return
    if shapes is not None:
        with contextlib.suppress(FormatError):
            reader.use_shapes(shapes)
            return
    name = reader.metadata.get("architecture", "")
    if architecture is None and name in architectures():
        architecture = name
    if architecture is not None:
        shapes = names_and_shapes(build(architecture))
    if shapes is None:
        raise ModelError(
            f"{where} leaves names and shapes to the architecture {name!r}, which is not "
            "registered; pass the model that it was saved from, or its architecture"
        )
    reader.use_shapes(shapes)
