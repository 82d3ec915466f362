"""Batches of inputs without labels: what is refused before anything is measured with them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from flyweight.errors import DataError

__all__ = ["check_inputs", "checked_batches"]


def check_inputs(inputs: Tensor, what: str) -> None:
    """Raise DataError, which says ``what`` they are, for inputs that tell nothing of activations.

    Example:
        >>> check_inputs(torch.ones(1, 2), "the batch")
    """
    if not isinstance(inputs, Tensor):
        raise DataError(f"{what} is a {type(inputs).__name__}, not a tensor of inputs")
    if not inputs.ndim or not inputs.numel():
        raise DataError(f"{what} holds no example; found shape {tuple(inputs.shape)}")
    if not bool(torch.isfinite(inputs).all()):
        raise DataError(f"{what} holds NaN or infinity; take it out")


def checked_batches(batches: Iterable[Tensor], purpose: str) -> list[Tensor]:
    """The batches as a list; DataError, which says the ``purpose``, where they are none.

    Each is a tensor that holds examples, all of them finite.

    Example:
        >>> checked_batches([], "measure with")
        Traceback (most recent call last):
        flyweight.errors.DataError: there are no calibration batches to measure with
    """
    if isinstance(batches, Tensor):
        raise DataError("the calibration batches are one tensor; give a list of batches")
    found = [*batches]
    if not found:
        raise DataError(f"there are no calibration batches to {purpose}")
    for number, batch in enumerate(found):
        check_inputs(batch, f"calibration batch {number}")
    return found
