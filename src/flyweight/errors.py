"""Exception tree.

FlyweightError
├── FormatError      a file is not a valid ``.fly`` file, or is damaged
├── RecipeError      a recipe has an unknown key or an invalid value
├── DataError        a data set is missing, damaged or not the expected one
├── CheckpointError  a checkpoint or training state cannot be read or written
└── ModelError       a model or tensor cannot be compressed with these settings

Every message is one sentence: the subject, the problem, the fix.

Example:
    >>> try:
    ...     raise FormatError("model.fly is damaged; copy it again")
    ... except FlyweightError as error:
    ...     print(error)
    model.fly is damaged; copy it again
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
    """Base class of all errors that flyweight raises on purpose."""


class FormatError(FlyweightError):
    """Raised for a file that is not a valid ``.fly`` file, or is damaged."""


class RecipeError(FlyweightError):
    """Raised for a recipe or configuration with an unknown key or an invalid value."""


class DataError(FlyweightError):
    """Raised for a data set that is missing, damaged or not the expected one."""


class CheckpointError(FlyweightError):
    """Raised for a checkpoint, training state or path that cannot be read or written."""


class ModelError(FlyweightError):
    """Raised for a model or tensor that cannot be compressed with the given settings."""
