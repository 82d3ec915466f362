"""Compress and read checkpoints: safetensors files and torch state dicts."""

from flyweight.checkpoints.compression import (
    METADATA_PREFIX,
    CheckpointReport,
    compress_checkpoint,
)
from flyweight.checkpoints.histogram_quantization import (
    FLOATS,
    Grid,
    quantized,
)
from flyweight.checkpoints.safetensors_files import (
    Checkpoint,
    SafetensorsWriter,
    TensorEntry,
    open_checkpoint,
    read_values,
)
from flyweight.checkpoints.state_dicts import (
    read_state_dict,
    write_state_dict,
)

__all__ = [
    "FLOATS",
    "METADATA_PREFIX",
    "Checkpoint",
    "CheckpointReport",
    "Grid",
    "SafetensorsWriter",
    "TensorEntry",
    "compress_checkpoint",
    "open_checkpoint",
    "quantized",
    "read_state_dict",
    "read_values",
    "write_state_dict",
]
