"""Which tensors of a model take part: chosen by glob and by type of layer."""

from __future__ import annotations

import fnmatch
import glob
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from flyweight.errors import ModelError

__all__ = [
    "nonzero_mask",
    "apply_masks_",
    "matching",
    "matching_parameters",
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

    Args:
        model: any module; it is not changed.
        include: globs over names of parameters; one that matches is enough.
        exclude: globs of those that are left out.
        layer_types: names of classes of layers, such as "Conv2d"; none for all.

    Biases and what batch normalisation learns are vectors, and never take part; nor do integers,
    complex numbers, and floats of 8 bits, which torch stores and does not calculate with. A tensor
    that several layers share is there once, under the first of its names; a glob or a type that
    fits one of them is enough.

    Raises ModelError where a glob or a type matches nothing, or nothing is left.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 2))
        >>> [*select_weights(model)], [*select_weights(model, layer_types=["Linear"])]
        (['0.weight', '2.weight'], ['2.weight'])
    """
    chosen, excluded = matching_parameters(model, include), matching_parameters(model, exclude)
    first: dict[nn.Parameter, str] = {}
    kinds: dict[nn.Parameter, set[str]] = {}
    for name, kind, parameter in _parameters(model):
        first.setdefault(parameter, name)
        kinds.setdefault(parameter, set()).add(kind)
    known = set().union(*kinds.values())
    for wanted in layer_types:
        if wanted not in known:
            raise ModelError(
                f"no layer of the type {wanted!r} has parameters; "
                f"there are {', '.join(sorted(known))}"
            )
    found = {
        name: parameter
        for parameter, name in first.items()
        if parameter.ndim >= 2
        and parameter.is_floating_point()
        and parameter.dtype.itemsize > 1
        and parameter in chosen - excluded
        and (not layer_types or not kinds[parameter].isdisjoint(layer_types))
    }
    if not found:
        every = "*" in include and not exclude and not layer_types
        told = "the model has" if every else "include, exclude and layer_types leave"
        raise ModelError(f"{told} no weight of two or more dimensions in floats of 16 bits or more")
    return found


def matching_parameters(model: nn.Module, globs: Sequence[str]) -> set[nn.Parameter]:
    """The parameters of which a glob fits one of the names.

    Raises ModelError where a glob matches nothing.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
        >>> matching_parameters(model, ["1.*"]) == set(model[1].parameters())
        True
    """
    found = set()
    for wanted in globs:
        some = _fitting(model, wanted)
        if not some:
            raise ModelError(f"the layer pattern {wanted!r} matches no parameter of the model")
        found |= some
    return found


def _fitting(model: nn.Module, wanted: str) -> set[nn.Parameter]:
    return {p for name, _, p in _parameters(model) if fnmatch.fnmatchcase(name, wanted)}


def weights_named(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Parameter]:
    """The parameters of these names, by name; ModelError for one that the model lacks.

    A tensor that several layers share is there once, under the first of its names that is given.

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


def _parameters(model: nn.Module) -> Iterator[tuple[str, str, nn.Parameter]]:
    """Each parameter under each of its names, with the type of the layer that holds it."""
    for path, module in model.named_modules(remove_duplicate=False):
        for leaf, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            yield f"{path}.{leaf}".removeprefix("."), type(module).__name__, parameter


def matching(name: str, values: Mapping[str, float], default: float) -> float:
    """The value of the last glob in ``values`` that matches ``name``, or the default.

    Example:
        >>> matching("stages.0.conv1.weight", {"stages.*": 0.5, "*.conv1.*": 0.9}, 0.8)
        0.9
    """
    found = [value for wanted, value in values.items() if fnmatch.fnmatchcase(name, wanted)]
    return found[-1] if found else default


def overrides_by_name(
    model: nn.Module, weights: Mapping[str, Tensor], overrides: Mapping[str, float]
) -> dict[str, float]:
    """The overrides of weights of a model, each by the name that the weight has in ``weights``.

    Arguments:
        model: whose parameters the weights are.
        weights: from `select_weights`, which has the first name of a tied weight only.
        overrides: values by glob; one that fits any of the names of a weight is its own, and of
            several the last counts.

    Returns a value by name, as a glob that fits nothing else, for the weights that have one. Raises
    ModelError for a glob that fits none of the weights.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> model[1].weight = model[0].weight
        >>> overrides_by_name(model, select_weights(model), {"1.*": 0.5})
        {'0.weight': 0.5}
    """
    found: dict[str, float] = {}
    for wanted, value in overrides.items():
        fitting = _fitting(model, wanted)
        names = [glob.escape(name) for name, weight in weights.items() if weight in fitting]
        if not names:
            raise ModelError(f"the layer pattern {wanted!r} matches none of the weights chosen")
        found |= dict.fromkeys(names, value)
    return found


def apply_masks_(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
    """Set each weight to 0 where its mask, bool and of its shape, is False. Changes ``weights``.

    Every weight named in ``masks`` is among ``weights``.

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
    """Return the mask (bool, of the shape of ``weight``) of the weights that are not pruned and not zero.

    Raises ModelError for a ``mask`` of another shape or type, and for weights that are not finite
    or not floats of 16 bits or more.

    Example:
        >>> nonzero_mask(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([True, True, False])).tolist()
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
