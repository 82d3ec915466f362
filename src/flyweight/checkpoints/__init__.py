"""Checkpoints of any architecture, tensor by tensor: safetensors files and their shards."""

from flyweight.checkpoints.safetensors_files import (
    Checkpoint,
    SafetensorsWriter,
    TensorEntry,
    open_checkpoint,
    read_values,
)

__all__ = ["Checkpoint", "SafetensorsWriter", "TensorEntry", "open_checkpoint", "read_values"]
