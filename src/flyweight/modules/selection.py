"""Select the tensors of a model by glob and by type of layer, and mask them."""

from __future__ import annotations

import fnmatch
import glob
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from flyweight.errors import ModelError

__all__ = [
    "apply_masks_",
    "embeddings_of",
    "matching",
    "matching_parameters",
    "nonzero_mask",
    "overrides_by_name",
    "select_weights",
    "weights_named",
]


def select_weights(
    model: nn.Module,
    *,
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
    layer_types: Sequence[str] = (),
) -> dict[str, nn.Parameter]:
    """Select the weights to compress: parameters of two and more dimensions, by name.

    Biases and the parameters of batch normalization are vectors and never selected; nor are
    integers, complex numbers, and floats of 8 bits, which torch stores but does not compute with.
    A tensor that several layers share is returned once, under the first of its names; a glob or a
    type that matches one of them is enough.

    Args:
        model: any module; it is not changed.
        include: globs over names of parameters; one that matches is enough.
        exclude: globs of those that are left out.
        layer_types: names of classes of layers, such as "Conv2d"; none for all.

    Raises:
        ModelError: a glob or a type matches nothing, or nothing is left.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 2))
        >>> [*select_weights(model)], [*select_weights(model, layer_types=["Linear"])]
        (['0.weight', '2.weight'], ['2.weight'])
    """
    included, excluded = matching_parameters(model, include), matching_parameters(model, exclude)
    first: dict[nn.Parameter, str] = {}
    kinds: dict[nn.Parameter, set[str]] = {}
    for name, kind, parameter in _parameters(model):
        first.setdefault(parameter, name)
        kinds.setdefault(parameter, set()).add(kind)
    known = set().union(*kinds.values())
    for layer_type in layer_types:
        if layer_type not in known:
            raise ModelError(
                f"no layer of the type {layer_type!r} has parameters; "
                f"there are {', '.join(sorted(known))}"
            )
    found = {
        name: parameter
        for parameter, name in first.items()
        if parameter.ndim >= 2
        and parameter.is_floating_point()
        and parameter.dtype.itemsize > 1
        and parameter in included - excluded
        and (not layer_types or not kinds[parameter].isdisjoint(layer_types))
    }
    if not found:
        every = "*" in include and not exclude and not layer_types
        subject = "the model has" if every else "include, exclude and layer_types leave"
        raise ModelError(
            f"{subject} no weight of two or more dimensions in floats of 16 bits or more"
        )
    return found


def embeddings_of(model: nn.Module) -> dict[nn.Parameter, set[str]]:
    """Return the weights of embeddings, each with the class names of the embeddings that hold it.

    A weight that an embedding shares with another layer, such as a tied head, is one of them.

    Example:
        >>> model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5))
        >>> [*embeddings_of(model).values()]
        [{'Embedding'}]
    """
    found: dict[nn.Parameter, set[str]] = {}
    for module in model.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            for parameter in module.parameters():
                found.setdefault(parameter, set()).add(type(module).__name__)
    return found


def matching_parameters(model: nn.Module, globs: Sequence[str]) -> set[nn.Parameter]:
    """Return the parameters of which a glob matches one of the names.

    A tensor behind a parametrization has the name that its layer has for it, such as "0.weight",
    besides "0.parametrizations.weight.original".

    Raises:
        ModelError: a glob matches nothing.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
        >>> matching_parameters(model, ["1.*"]) == set(model[1].parameters())
        True
    """
    found = set()
    for pattern in globs:
        matched = _matched(model, pattern)
        if not matched:
            raise ModelError(f"the layer pattern {pattern!r} matches no parameter of the model")
        found |= matched
    return found


def _matched(model: nn.Module, pattern: str) -> set[nn.Parameter]:
    return {
        parameter
        for name, _, parameter in _parameters(model, with_plain_names=True)
        if fnmatch.fnmatchcase(name, pattern)
    }


def weights_named(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Parameter]:
    """Return parameters by name; a shared tensor once, under the first of its names given.

    Raises:
        ModelError: the model has no parameter of a name.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> model[1].weight = model[0].weight
        >>> [*weights_named(model, ["1.weight", "0.weight", "0.bias"])]
        ['1.weight', '0.bias']
    """
    found: dict[nn.Parameter, str] = {}
    for name in names:
        try:
            found.setdefault(model.get_parameter(name), name)
        except AttributeError:
            raise ModelError(f"the model has no parameter named {name!r}") from None
    return {name: parameter for parameter, name in found.items()}


def _parameters(
    model: nn.Module, *, with_plain_names: bool = False
) -> Iterator[tuple[str, str, nn.Parameter]]:
    """Yield each parameter under each of its names, with the type of the layer that holds it.

    With plain names, a tensor behind a parametrization also comes under the name that its layer
    has for it.
    """
    for path, module in model.named_modules(remove_duplicate=False):
        for leaf, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            yield f"{path}.{leaf}".removeprefix("."), type(module).__name__, parameter
            if with_plain_names and isinstance(module, ParametrizationList):
                layer, _, seen = path.rpartition("parametrizations.")
                yield f"{layer}{seen}", type(module).__name__, parameter


def matching(name: str, values: Mapping[str, float], default: float) -> float:
    """Return the value of the last glob in ``values`` that matches ``name``, or the default.

    Example:
        >>> matching("stages.0.conv1.weight", {"stages.*": 0.5, "*.conv1.*": 0.9}, 0.8)
        0.9
    """
    found = [value for pattern, value in values.items() if fnmatch.fnmatchcase(name, pattern)]
    return found[-1] if found else default


def overrides_by_name(
    model: nn.Module, weights: Mapping[str, Tensor], overrides: Mapping[str, float]
) -> dict[str, float]:
    """Resolve overrides by glob into overrides by the names of the selected weights.

    Args:
        model: holds the weights as its parameters.
        weights: from `select_weights`, which has the first name of a shared weight only.
        overrides: values by glob; a glob that matches any name of a weight counts for it, and of
            several the last counts.

    Returns:
        For each weight that has an override, its value by a glob that matches this name only.

    Raises:
        ModelError: a glob matches none of the weights.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> model[1].weight = model[0].weight
        >>> overrides_by_name(model, select_weights(model), {"1.*": 0.5})
        {'0.weight': 0.5}
    """
    found: dict[str, float] = {}
    for pattern, value in overrides.items():
        matched = _matched(model, pattern)
        names = [glob.escape(name) for name, weight in weights.items() if weight in matched]
        if not names:
            raise ModelError(
                f"the layer pattern {pattern!r} matches none of the selected weights; match one of "
                f"them, such as {next(iter(weights))!r}"
            )
        found |= dict.fromkeys(names, value)
    return found


def apply_masks_(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
    """Set each weight to 0 where its mask, bool and of its shape, is False. Changes ``weights``.

    Every name in ``masks`` is among ``weights``.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> apply_masks_({"weight": layer.weight}, {"weight": torch.tensor([[True, False]])})
        >>> (layer.weight != 0).tolist()
        [[True, False]]
    """
    with torch.no_grad():
        for name, mask in masks.items():
            weights[name].masked_fill_(~mask, 0)  # a product would leave -0.0


def nonzero_mask(weight: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mask, bool and of the shape of ``weight``, of weights not pruned and not zero.

    Raises:
        ModelError: ``mask`` has another shape or type, or the weights are not finite, or not
            floats of 16 bits or more.

    Example:
        >>> nonzero_mask(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([True, True, False])).tolist()
        [False, True, False]
    """
    if not weight.is_floating_point() or weight.dtype.itemsize == 1:
        raise ModelError(
            f"weights of {weight.dtype} cannot be quantized; give floats of 16 bits or more"
        )
    if mask is not None and (mask.shape != weight.shape or mask.dtype != torch.bool):
        raise ModelError(
            f"the mask has shape {tuple(mask.shape)} and type {mask.dtype}, "
            f"not {tuple(weight.shape)} and torch.bool"
        )
    if not bool(torch.isfinite(weight).all()):
        raise ModelError("weights hold NaN or infinity and cannot be quantized; repair them")
    return weight != 0 if mask is None else mask & (weight != 0)
