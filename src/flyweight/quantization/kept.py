"""Which weights of a tensor take part in its quantisation: those that are not pruned."""

from __future__ import annotations

import torch
from torch import Tensor

from flyweight.errors import ModelError

__all__ = ["kept_weights"]


def kept_weights(weight: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mask (bool, of the shape of ``weight``) of the weights that are not pruned and not zero.

    Raises ModelError for a ``mask`` of another shape or type, and for weights that are not finite
    or not floats of 16 bits or more.

    Example:
        >>> kept_weights(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([True, True, False])).tolist()
        [False, True, False]
    """
    if not weight.is_floating_point() or weight.dtype.itemsize == 1:
        raise ModelError(
            f"weights of {weight.dtype} cannot be quantised; give floats of 16 bits or more"
        )
    if mask is not None and (mask.shape != weight.shape or mask.dtype != torch.bool):
        raise ModelError(
            f"the mask has shape {tuple(mask.shape)} and type {mask.dtype}, "
            f"not {tuple(weight.shape)} and torch.bool"
        )
    if not bool(torch.isfinite(weight).all()):
        raise ModelError("weights hold NaN or infinity and cannot be quantised; repair them")
    return weight != 0 if mask is None else mask & (weight != 0)
