"""flyweight makes the smallest file that still does a neural network's job, and proves it.

The names below are imported on first use, so that the command line answers ``--version``, ``-h``
and the completion of the shell without importing torch.

Example:
    >>> import flyweight
    >>> flyweight.CompressedModel.__name__
    'CompressedModel'
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from typing import TYPE_CHECKING, Any

from flyweight._architectures import add_source

if TYPE_CHECKING:
    from flyweight import cifar
    from flyweight.checkpoints import compress_checkpoint
    from flyweight.compressed import CompressedModel, CompressedTensor
    from flyweight.compression import CompressionReport, compress, evaluate
    from flyweight.errors import (
        CheckpointError,
        DataError,
        FlyweightError,
        FormatError,
        ModelError,
        RecipeError,
    )
    from flyweight.io import decompress, load, load_state_dict, save
    from flyweight.pruning import Pruner, PruningConfig
    from flyweight.quantization import PostTrainingConfig, QuantizationConfig, Quantizer
    from flyweight.recipes import Recipe, load_recipe
    from flyweight.size_report import SizeReport, inspect
    from flyweight.training import TrainingConfig, train

__version__: str

__all__ = [
    "CheckpointError",
    "CompressedModel",
    "CompressedTensor",
    "CompressionReport",
    "DataError",
    "FlyweightError",
    "FormatError",
    "ModelError",
    "PostTrainingConfig",
    "Pruner",
    "PruningConfig",
    "QuantizationConfig",
    "Quantizer",
    "Recipe",
    "RecipeError",
    "SizeReport",
    "TrainingConfig",
    "__version__",
    "cifar",
    "compress",
    "compress_checkpoint",
    "decompress",
    "evaluate",
    "inspect",
    "load",
    "load_recipe",
    "load_state_dict",
    "save",
    "train",
]

_ROOMS = {
    "checkpoints": ("compress_checkpoint",),
    "compressed": ("CompressedModel", "CompressedTensor"),
    "compression": ("CompressionReport", "compress", "evaluate"),
    "errors": (
        "CheckpointError",
        "DataError",
        "FlyweightError",
        "FormatError",
        "ModelError",
        "RecipeError",
    ),
    "io": ("decompress", "load", "load_state_dict", "save"),
    "pruning": ("Pruner", "PruningConfig"),
    "quantization": ("PostTrainingConfig", "QuantizationConfig", "Quantizer"),
    "recipes": ("Recipe", "load_recipe"),
    "size_report": ("SizeReport", "inspect"),
    "training": ("TrainingConfig", "train"),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

add_source("flyweight.cifar")  # whose networks are known by name without an import of it


def __getattr__(name: str) -> Any:
    value: Any
    if name == "__version__":
        value = importlib.metadata.version("flyweight")
    elif name in _ROOM_OF:
        value = getattr(importlib.import_module(f"flyweight.{_ROOM_OF[name]}"), name)
    elif not name.startswith("_") and importlib.util.find_spec(f"flyweight.{name}") is not None:
        value = importlib.import_module(f"flyweight.{name}")
    else:
        raise AttributeError(f"module 'flyweight' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
