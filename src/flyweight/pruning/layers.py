"""Which tensors of a model take part: chosen by glob and by type of layer."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence

from torch import nn

from flyweight.errors import ModelError

__all__ = ["matching", "select_weights"]


def select_weights(
    model: nn.Module,
    *,
    layers: Sequence[str] = ("*",),
    keep: Sequence[str] = (),
    types: Sequence[str] = (),
) -> dict[str, nn.Parameter]:
    """The weights that take part: parameters of two and more dimensions, by name.

    Arguments:
        model: any module; it is not changed.
        layers: globs over names of parameters; one that matches is enough.
        keep: globs of those that stay as they are.
        types: names of classes of layers, such as "Conv2d"; none for all.

    Biases and what batch normalisation learns are vectors, and never take part. A tensor that
    several layers share is there once, under the first of its names; a glob or a type that fits
    one of them is enough.

    Raises ModelError where a glob or a type matches nothing, or nothing is left.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 2))
        >>> [*select_weights(model)], [*select_weights(model, types=["Linear"])]
        (['0.weight', '2.weight'], ['2.weight'])
    """
    holders: dict[nn.Parameter, list[tuple[str, str]]] = {}
    for name, kind, parameter in _parameters(model):
        holders.setdefault(parameter, []).append((name, kind))
    names = [name for held in holders.values() for name, _ in held]
    for pattern in (*layers, *keep):
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            raise ModelError(f"the layer pattern {pattern!r} matches no parameter of the model")
    known = {kind for held in holders.values() for _, kind in held}
    for wanted in types:
        if wanted not in known:
            raise ModelError(
                f"no layer of the type {wanted!r} has parameters; "
                f"there are {', '.join(sorted(known))}"
            )

    def takes_part(parameter: nn.Parameter, held: list[tuple[str, str]]) -> bool:
        def named(patterns: Sequence[str]) -> bool:
            return any(fnmatch.fnmatchcase(name, glob) for name, _ in held for glob in patterns)

        of_type = not types or any(kind in types for _, kind in held)
        return parameter.ndim >= 2 and of_type and named(layers) and not named(keep)

    chosen = {held[0][0]: p for p, held in holders.items() if takes_part(p, held)}
    if not chosen:
        raise ModelError("the recipe's layer patterns leave no weight to prune")
    return chosen


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
    found = [value for glob, value in values.items() if fnmatch.fnmatchcase(name, glob)]
    return found[-1] if found else default
