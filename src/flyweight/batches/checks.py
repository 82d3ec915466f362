"""Check that data have batches of a known form, before any work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from typing import Any

import torch
from torch import Tensor

from flyweight.batches.forms import Batch, examples_in, inputs_of, is_pair, is_single, tensors_in
from flyweight.errors import DataError

__all__ = ["check_batch", "check_batches"]

_FORMS = "(inputs, targets), a mapping of names to tensors, or one tensor of inputs"


def check_batch(batch: Batch, name: str = "data") -> None:
    """Raise DataError, which names the argument, for a batch of no known form or without content.

    Example:
        >>> check_batch("text")
        Traceback (most recent call last):
        flyweight.errors.DataError: data gives batches of type str; give (inputs, targets), ...
    """
    pair = is_pair(batch) or is_single(batch)
    if not (pair or isinstance(batch, Tensor | Mapping)) or isinstance(batch, str | bytes):
        kind = type(batch).__name__
        if isinstance(batch, tuple | list):
            kind = f"{kind} of {len(batch)} parts"
        raise DataError(f"{name} gives batches of type {kind}; give {_FORMS}")
    tensors = [*tensors_in(inputs_of(batch))]
    if not tensors:
        raise DataError(f"{name} gives batches whose inputs hold no tensor; give {_FORMS}")
    if not examples_in(batch) or not all(tensor.numel() for tensor in tensors):
        shape = tuple(tensors[0].shape)
        raise DataError(f"{name} gives a batch without examples, of shape {shape}; leave it out")
    for tensor in tensors:
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise DataError(f"{name} gives a batch that holds NaN or infinity; remove it")


def check_batches(batches: Any, name: str = "data") -> int:
    """Return the number of batches after a look at the first one.

    Args:
        batches: an iterable of batches with a length that can be gone through more than once.
        name: of the argument, for errors.

    Raises:
        DataError: ``batches`` is a tensor, is empty, has no length, cannot be gone through twice,
            or its first batch has no known form.

    Example:
        >>> check_batches([torch.ones(1, 2)])
        1
    """
    if isinstance(batches, Tensor | Mapping | str):
        raise DataError(f"{name} is a {type(batches).__name__}; give a list of batches or a loader")
    if not isinstance(batches, Iterable):
        raise DataError(
            f"{name} is a {type(batches).__name__}, which cannot be iterated over; give a list of "
            "batches or a loader"
        )
    try:
        count = len(batches) if isinstance(batches, Sized) else None
    except TypeError:  # a DataLoader over an iterable data set
        count = None
    if count is None:
        raise DataError(
            f"{name} has no length, so that no schedule fits it; give a list or a sized loader, "
            "itertools.islice made a list say"
        )
    first = next(iter(batches), None) if count else None
    if first is None:
        raise DataError(f"{name} is empty; give at least one batch")
    check_batch(first, name)
    return count
