"""The tensors of a checkpoint: names, types and shapes, and their values on demand."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flyweight.coding import DTYPES, carrier
from flyweight.coding.forms import MAX_ELEMENTS, MAX_RANK
from flyweight.errors import CheckpointError

__all__ = [
    "BITS_PREFIX",
    "Checkpoint",
    "TensorEntry",
    "bits_entry",
    "bits_metadata",
    "bytes_of_file",
    "entry_of_tensor",
    "with_bit_types",
]

BITS_PREFIX = "flyweight.bits."
"""Begins the metadata key that records the data type of a tensor kept as its bits."""

# Types of safetensors that a .fly file lacks, by what torch calls them.
_TORCH_OF_BITS = {
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F4": "float4_e2m1fn_x2",
}
_BITS_OF_TORCH = {name: kind for kind, name in _TORCH_OF_BITS.items()}

_LARGE = 1 << 24  # bytes

ReadBytes = Callable[[int, int], NDArray[np.uint8]]


@dataclass(frozen=True, eq=False)
class TensorEntry:
    """A tensor of a checkpoint, read on demand.

    Attributes:
        name: unique within the checkpoint.
        dtype: one of `flyweight.coding.DTYPES`; "uint8" for a type that flyweight lacks, whose
            bits are kept.
        shape: of the tensor; of its bytes where the bits are kept.
        length: number of bytes of its values.
        read_bytes: returns the bytes from the first argument up to the second.
        bit_type: the type and shape in words of safetensors where the bits are kept, or "".
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    length: int
    read_bytes: ReadBytes
    bit_type: str = ""

    def __post_init__(self) -> None:
        extents = (max(extent, 1) for extent in self.shape)
        if len(self.shape) > MAX_RANK or prod(extents) > MAX_ELEMENTS:
            raise CheckpointError(
                f"tensor {self.name!r} has {len(self.shape)} dimensions or more than 2**40 "
                "elements, which no file holds; split it"
            )

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    def values(self) -> NDArray[Any]:
        """Read the values, as an array of the carrier of the dtype.

        Raises:
            CheckpointError: the file has become shorter.
        """
        raw = self.read_bytes(0, self.length)
        return np.ascontiguousarray(raw).view(carrier(self.dtype)).reshape(self.shape)


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a checkpoint in order.

    Attributes:
        entries: the tensors.
        metadata: strings that the checkpoint holds beside them.
        files: all files that belong to it; an output must not be one of them.
    """

    entries: tuple[TensorEntry, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.length for entry in self.entries)


def bits_entry(
    name: str, kind: str, shape: tuple[int, ...], length: int, read_bytes: ReadBytes
) -> TensorEntry:
    """Make the entry of a tensor whose type a ``.fly`` file lacks: its bytes, as uint8.

    ``kind`` is the type in words of safetensors, such as "F8_E8M0" or "F4".
    """
    kept = shape if prod(shape) == length else (length,)
    words = " ".join(map(str, (kind, *shape)))
    return TensorEntry(name, "uint8", kept, length, read_bytes, words)


def bits_metadata(checkpoint: Checkpoint) -> dict[str, str]:
    """Describe in metadata the types of the tensors whose bits are kept.

    `SafetensorsWriter` and `with_bit_types` read these entries.
    """
    return {
        BITS_PREFIX + entry.name: entry.bit_type for entry in checkpoint.entries if entry.bit_type
    }


def with_bit_types(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, Tensor]:
    """View tensors kept as bits as the types that ``metadata`` records, where torch has them.

    Example:
        >>> metadata = {"flyweight.bits.scale": "F8_E8M0 2"}
        >>> state = {"scale": torch.tensor([127, 128], dtype=torch.uint8)}
        >>> with_bit_types(state, metadata)["scale"].float()
        tensor([1., 2.])
    """
    typed = dict(state)
    for key, words in metadata.items():
        name = key.removeprefix(BITS_PREFIX)
        kind, *shape = words.split(" ") if key != name else [""]
        dtype = getattr(torch, _TORCH_OF_BITS.get(kind, ""), None)
        value = typed.get(name)
        if dtype is None or value is None or value.dtype != torch.uint8:
            continue
        extents = [int(extent) for extent in shape if extent.isdecimal()]
        if kind == "F4" and extents and extents[-1] % 2 == 0:  # torch holds two in a byte
            extents[-1] //= 2
        if prod(extents) == value.numel():
            typed[name] = value.reshape(extents).view(dtype)
    return typed


def entry_of_tensor(name: str, tensor: Tensor) -> TensorEntry:
    """Make the entry of a torch tensor.

    Raises:
        CheckpointError: it is sparse, nested, quantized or without values, or of a type that no
            file holds.
    """
    sentence = _defect(tensor)
    if sentence:
        raise CheckpointError(f"tensor {name!r} {sentence}")
    kind = str(tensor.dtype).removeprefix("torch.")
    length = tensor.numel() * tensor.itemsize
    read_bytes = _bytes_of(tensor.detach())
    if kind in DTYPES:
        return TensorEntry(name, kind, tuple(tensor.shape), length, read_bytes)
    if kind in _BITS_OF_TORCH:
        shape = list(tensor.shape)
        if kind == "float4_e2m1fn_x2":
            shape = [*shape[:-1], 2 * shape[-1]] if shape else [2]
        return bits_entry(name, _BITS_OF_TORCH[kind], tuple(shape), length, read_bytes)
    raise CheckpointError(f"tensor {name!r} is of {tensor.dtype}, which no file holds; convert it")


def _defect(tensor: Tensor) -> str:
    if tensor.is_nested:
        return "is a nested tensor; save its parts one by one"
    if tensor.layout != torch.strided:
        return "is sparse; save its dense values (`tensor.to_dense()`)"
    if tensor.is_quantized:
        return "is quantized by torch; save its values (`tensor.dequantize()`)"
    if tensor.is_meta:
        return "is on the meta device and holds no values; load them before saving"
    return ""


def _bytes_of(tensor: Tensor) -> ReadBytes:
    def read_bytes(start: int, stop: int) -> NDArray[np.uint8]:
        plain = tensor.resolve_conj().resolve_neg().cpu().contiguous()
        raw: NDArray[np.uint8] = plain.reshape(-1).view(torch.uint8).numpy()
        return raw[start:stop]

    return read_bytes


def bytes_of_file(path: Path, offset: int) -> ReadBytes:
    """Return a function that reads bytes of a file, counted from ``offset``."""

    def read_bytes(start: int, stop: int) -> NDArray[np.uint8]:
        # Large tensors get pages of their own, which go back to the system as a whole.
        length = stop - start
        room = mmap.mmap(-1, length) if length >= _LARGE else bytearray(length)
        raw = np.frombuffer(room, dtype=np.uint8)
        with path.open("rb", buffering=0) as file:
            file.seek(offset + start, os.SEEK_SET)
            done = 0
            while done < length and (more := file.readinto(raw[done:].data)):
                done += more
        if done != length:
            raise CheckpointError(f"{path} was cut short while it was read; copy it again")
        return raw

    return read_bytes
