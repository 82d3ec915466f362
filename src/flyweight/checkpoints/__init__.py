"""Compress and read checkpoints: safetensors files and torch state dicts."""

from flyweight.checkpoints.compression import (
    METADATA_PREFIX,
    CheckpointReport,
    shrink,
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
    Architecture,
    build,
    fill_,
    read_state_dict,
    write_state_dict,
)

__all__ = [
    "Architecture",
    "Checkpoint",
    "FLOATS",
    "Grid",
    "METADATA_PREFIX",
    "SafetensorsWriter",
    "CheckpointReport",
    "TensorEntry",
    "build",
    "fill_",
    "open_checkpoint",
    "quantized",
    "read_state_dict",
    "read_values",
    "compress_checkpoint",
    "write_state_dict",
]
