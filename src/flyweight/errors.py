"""Every error flyweight raises on purpose, in one tree.

FlyweightError
├── FormatError      a file is not a valid ``.fly`` file, or is damaged
├── RecipeError      a recipe holds an unknown key or an impossible value
├── DataError        a data set is missing, damaged or not the one expected
├── CheckpointError  a checkpoint or training state cannot be used
└── ModelError       a model or tensor cannot be compressed as asked

Each message is one sentence that says what was found, where, and what to do.
"""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "DataError",
    "FlyweightError",
    "FormatError",
    "ModelError",
    "RecipeError",
]


class FlyweightError(Exception):
    """Base of all errors that flyweight raises on purpose."""


class FormatError(FlyweightError):
    """A file is not a valid ``.fly`` file, or is damaged."""


class RecipeError(FlyweightError):
    """A recipe holds an unknown key or an impossible value."""


class DataError(FlyweightError):
    """A data set is missing, damaged or not the one expected."""


class CheckpointError(FlyweightError):
    """A checkpoint or training state cannot be used."""


class ModelError(FlyweightError):
    """A model or tensor cannot be compressed as asked."""
