"""Select the weights that a pruner prunes."""

from __future__ import annotations

from torch import nn

from flyweight.errors import ModelError
from flyweight.modules import embeddings_of, matching_parameters, select_weights
from flyweight.pruning.config import PruningConfig

__all__ = ["selected_weights"]


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
