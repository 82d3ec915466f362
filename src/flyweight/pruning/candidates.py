"""Select the weights that a pruner prunes, and the zeros of the others."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from torch import Tensor, nn

from flyweight.errors import ModelError
from flyweight.modules import embeddings_of, is_plain, matching_parameters, select_weights
from flyweight.pruning.config import PruningConfig

__all__ = ["masks_of_zeros", "selected_weights"]


def selected_weights(model: nn.Module, config: PruningConfig) -> dict[str, nn.Parameter]:
    """Return the weights to prune by name; embeddings only if they are named."""
    weights = select_weights(
        model, include=config.include, exclude=config.exclude, layer_types=config.layer_types
    )
    named = matching_parameters(model, [glob for glob in config.include if glob != "*"])
    left_out = {
        parameter
        for parameter, kinds in embeddings_of(model).items()
        if parameter not in named and kinds.isdisjoint(config.layer_types)
    }
    found = {name: weight for name, weight in weights.items() if weight not in left_out}
    if not found:
        raise ModelError(
            f"all weights to prune are embeddings, such as {next(iter(weights))!r}, which are "
            "pruned only if they are named; name them in include, or their type in layer_types"
        )
    return found


def masks_of_zeros(model: nn.Module, *, without: Iterable[str]) -> dict[str, Tensor]:
    """Return masks that hold the zeros of weights which are not pruned.

    A weight of nothing but zeros has none: these are initial values, which train.
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
