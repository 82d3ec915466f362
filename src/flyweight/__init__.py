"""flyweight makes the smallest file that still does a neural network's job, and proves it."""

from importlib.metadata import version

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

__version__ = version("flyweight")

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
