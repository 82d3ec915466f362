"""Zeros of weights that a stage does not change."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from torch import Tensor, nn

from flyweight.modules.parametrize import is_plain
from flyweight.modules.selection import select_weights

__all__ = ["masks_of_zeros"]


def masks_of_zeros(model: nn.Module, *, without: Iterable[str]) -> dict[str, Tensor]:
    """Return masks, by name, that hold the zeros of weights which a stage does not change.

    A weight of nothing but zeros has none: these are initial values, which train. Warns of zeros
    behind a parametrization that is not flyweight's, which no mask holds.

    Args:
        model: is not changed.
        without: names of the weights that the stage changes.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> _ = model.weight.data.copy_(Tensor([[0.0, 1.0]]))
        >>> masks_of_zeros(model, without=[])
        {'weight': tensor([[False,  True]])}
    """
    others = {name: w for name, w in select_weights(model).items() if name not in {*without}}
    masks = {name: weight.detach() != 0 for name, weight in others.items()}
    found = {n: mask for n, mask in masks.items() if bool(mask.any()) and not bool(mask.all())}
    plain = is_plain(model, found)
    if foreign := [name for name in found if not plain[name]]:
        warnings.warn(
            f"tensor {foreign[0]!r} holds zeros that training may revive, since a parametrization "
            "that is not flyweight's is on it; remove it with torch.nn.utils.parametrize if the "
            "zeros are to stay",
            stacklevel=3,
        )
    return {name: mask for name, mask in found.items() if plain[name]}
