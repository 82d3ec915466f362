"""Read and write the state dict of a model."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from torch import Tensor

from flyweight._files import replacing
from flyweight.checkpoints.opening import open_checkpoint
from flyweight.checkpoints.safetensors_files import SafetensorsWriter
from flyweight.checkpoints.tensor_entries import (
    Checkpoint,
    TensorEntry,
    bits_metadata,
    entry_of_tensor,
    with_bit_types,
)

__all__ = ["read_state_dict", "write_state_dict"]

_CARRIED = ("bfloat16", "float8_e4m3fn", "float8_e5m2")  # as bits, since numpy lacks them


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint into memory.

    Nothing in the file is executed.

    Args:
        path: whatever `open_checkpoint` takes: a ``.safetensors`` file, a torch checkpoint of
            plain tensors, an index of shards, or a folder with one of them.

    Returns:
        New tensors on the CPU by name, in the order of the checkpoint.

    Raises:
        CheckpointError: the file is damaged or holds something else.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"state_dict": {"b": torch.ones(2)}, "epoch": 3}, f"{folder}/a.pt")
        ...     read_state_dict(f"{folder}/a.pt")
        {'b': tensor([1., 1.])}
    """
    checkpoint = open_checkpoint(path)
    state = {entry.name: _tensor(entry) for entry in checkpoint.entries}
    return with_bit_types(state, bits_metadata(checkpoint))


def _tensor(entry: TensorEntry) -> Tensor:
    values = torch.from_numpy(entry.values().copy())
    return values.view(getattr(torch, entry.dtype)) if entry.dtype in _CARRIED else values


def write_state_dict(state: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Write tensors by name as a ``.safetensors`` file, whole or not at all.

    Tied tensors are written once for each name.

    Raises:
        CheckpointError: a tensor is of a kind or type that the format lacks, or the file cannot be
            created.
        OSError: writing failed, for a full disk say.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_state_dict({"b": torch.ones(2)}, f"{folder}/a.safetensors")
        ...     read_state_dict(f"{folder}/a.safetensors")
        {'b': tensor([1., 1.])}
    """
    entries = tuple(entry_of_tensor(name, tensor) for name, tensor in state.items())
    metadata = bits_metadata(Checkpoint(entries))
    outlines = [(entry.name, entry.dtype, entry.shape) for entry in entries]
    with replacing(path) as file:
        writer = SafetensorsWriter(file, outlines, metadata)
        for entry in entries:
            writer.add(entry.name, entry.values())
