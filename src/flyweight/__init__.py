"""flyweight makes the smallest file that still does a neural network's job, and proves it."""

from flyweight.compressed import CompressedModel, CompressedTensor
from flyweight.data import load_cifar10
from flyweight.errors import (
    CheckpointError,
    DataError,
    FlyweightError,
    FormatError,
    ModelError,
    RecipeError,
)
from flyweight.files import decompress, load, save
from flyweight.models import create_model, load_pretrained
from flyweight.own_loop import prepare, prepare_quantization
from flyweight.pipeline import compress, compress_post_training, prune, quantize
from flyweight.proof import compress_to_file, evaluate, ledger
from flyweight.pruning import summary
from flyweight.recipes import PruningRecipe, Recipe, SharingRecipe, load_recipe
from flyweight.shrink import shrink
from flyweight.training import train

__all__ = [
    "CheckpointError",
    "CompressedModel",
    "CompressedTensor",
    "DataError",
    "FlyweightError",
    "FormatError",
    "ModelError",
    "PruningRecipe",
    "Recipe",
    "RecipeError",
    "SharingRecipe",
    "compress",
    "compress_post_training",
    "compress_to_file",
    "create_model",
    "decompress",
    "evaluate",
    "ledger",
    "load",
    "load_cifar10",
    "load_pretrained",
    "load_recipe",
    "prepare",
    "prepare_quantization",
    "prune",
    "quantize",
    "save",
    "shrink",
    "summary",
    "train",
]
