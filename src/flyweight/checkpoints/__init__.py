"""Compress and read checkpoints: safetensors files and torch state dicts."""

from flyweight.checkpoints.compression import (
    METADATA_PREFIX,
    CheckpointReport,
    compress_checkpoint,
)
from flyweight.checkpoints.file_kinds import check_regular_file, checkpoint_kind, escaped
from flyweight.checkpoints.opening import open_checkpoint
from flyweight.checkpoints.safetensors_files import SafetensorsWriter
from flyweight.checkpoints.state_dicts import read_state_dict, write_state_dict
from flyweight.checkpoints.tensor_entries import Checkpoint, TensorEntry, with_bit_types
from flyweight.checkpoints.tensor_quantization import GRIDS, Grid, quantize_tensor

__all__ = [
    "GRIDS",
    "METADATA_PREFIX",
    "Checkpoint",
    "CheckpointReport",
    "Grid",
    "SafetensorsWriter",
    "TensorEntry",
    "check_regular_file",
    "checkpoint_kind",
    "compress_checkpoint",
    "escaped",
    "open_checkpoint",
    "quantize_tensor",
    "read_state_dict",
    "with_bit_types",
    "write_state_dict",
]
