"""The zeros that a stage has to keep, looked for in what the layers see."""

from __future__ import annotations

import operator
from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["first_revived"]


@torch.no_grad()
def first_revived(model: nn.Module, kept: Mapping[str, Tensor]) -> str | None:
    """The first weight that has a value where its mask, bool, is False; None if there is none.

    Arguments:
        model: runs nothing; what its layers see, through any parametrizations, is looked at.
        kept: masks by name of the weight, of its shape, on any device.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> first_revived(layer, {"weight": torch.tensor([[True, False]])})
        'weight'
        >>> first_revived(layer, {"weight": torch.tensor([[True, True]])})
    """
    for name, mask in kept.items():
        seen = operator.attrgetter(name)(model)
        if bool(seen[~mask.to(seen.device)].any()):
            return name
    return None
