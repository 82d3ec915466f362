"""Filters that are zero, really removed: a smaller dense network, which runs faster."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from flyweight.errors import ModelError

__all__ = ["remove_filters", "silence_filters_"]

_Conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_Norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def remove_filters(model: nn.Module, example_inputs: Tensor) -> nn.Module:
    """Return a smaller network without the filters of ``model`` whose weights are all zero.

    Where outputs of several layers are added, a filter goes when it is zero in each of them. A
    filter that is zero still puts out a constant, its bias or what batch normalisation makes of
    it; the constant is dropped, which is what `silence_filters_` does, so that the network may need
    a little retraining. At least one filter of each layer stays. ``model`` is not changed.

    ``example_inputs`` is a batch as the network takes it; it is run once to see how layers depend
    on each other. Needs the package torch-pruning (``pip install flyweight[structured]``).

    Raises ModelError where it is missing or the network cannot be followed.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> _ = model[0].weight.data[2:].zero_()
        >>> smaller = remove_filters(model, torch.zeros(1, 3, 8, 8))
        >>> smaller[0].weight.shape, smaller[2].weight.shape
        (torch.Size([2, 3, 3, 3]), torch.Size([4, 2, 3, 3]))

    Source: Fang et al. 2023, "DepGraph: towards any structural pruning".
    """
    try:
        import torch_pruning
    except ImportError as error:
        raise ModelError(
            "removing filters needs torch-pruning; pip install flyweight[structured]"
        ) from error
    smaller = silence_filters_(copy.deepcopy(model))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            graph = torch_pruning.DependencyGraph()
            graph.build_dependency(smaller, example_inputs=example_inputs)
        except (
            Exception
        ) as error:  # it runs the model and reads its graph, which may raise anything
            raise ModelError(f"the layers of the model cannot be followed: {error}") from error
        for layer, prune in list(_removable(smaller, graph, torch_pruning)):
            dead = [k for k in _zero_filters(layer) if _is_dead(graph, layer, prune, k)]
            if len(dead) == layer.weight.shape[0]:
                dead = dead[1:]
            if dead:
                graph.get_pruning_group(layer, prune, idxs=dead).prune()
    return smaller


def silence_filters_(model: nn.Module) -> nn.Module:
    """Let filters of zeros put out zero: their bias, and what batch normalisation adds, go too.

    Batch normalisation belongs to the layer that is registered before it in the same module.
    Changes ``model``, and returns it.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
        >>> _ = model[0].weight.data[1].zero_()
        >>> silence_filters_(model)[1].weight.tolist()
        [1.0, 0.0]
    """
    for module in model.modules():
        last: nn.Module | None = None
        for child in module.children():
            if isinstance(child, _Norm) and last is not None:
                zero = _zero_filters(last)
                if child.affine and child.num_features == last.weight.shape[0] and zero:  # type: ignore[index]
                    child.weight.data[zero] = 0
                    child.bias.data[zero] = 0
            if isinstance(child, (*_Conv, nn.Linear)):
                last = child
                if child.bias is not None:
                    child.bias.data[_zero_filters(child)] = 0
            elif not isinstance(child, _Norm):
                last = None
    return model


def _zero_filters(layer: nn.Module) -> list[int]:
    weight: Any = layer.weight
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        return []
    empty: list[int] = (~weight.detach().flatten(1).any(1)).nonzero().flatten().tolist()
    return empty


def _removable(model: nn.Module, graph: Any, pruning: Any) -> Iterator[tuple[Any, Any]]:
    """Each layer whose outputs other layers take, with the function that removes some."""
    for module in model.modules():
        if isinstance(module, _Conv) and module.groups == 1:
            yield module, pruning.prune_conv_out_channels
        elif isinstance(module, nn.Linear):
            yield module, pruning.prune_linear_out_channels


def _is_dead(graph: Any, layer: nn.Module, prune: Any, filter_: int) -> bool:
    """Whether nothing but zeros is lost with a filter, and the network's outputs are not."""
    group = graph.get_pruning_group(layer, prune, idxs=[filter_])
    taken = False
    for dependency, places in group:
        target = dependency.target.module
        if graph.is_out_channel_pruning_fn(dependency.handler):
            weight = getattr(target, "weight", None)  # an addition has none
            if weight is not None and bool(weight.detach()[list(places)].any()):
                return False
        else:
            taken = True
    return taken
