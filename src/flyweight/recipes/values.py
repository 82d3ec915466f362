"""Values of a TOML table into the fields of a dataclass, each checked against its type."""

from __future__ import annotations

import dataclasses
import numbers
import typing
from collections.abc import Mapping
from typing import Any, Literal

from flyweight.errors import RecipeError

__all__ = ["check_values", "with_values"]


def with_values(default: Any, table: dict[str, Any], where: str, prefix: str) -> Any:
    """A dataclass with the values of a TOML table put over its own.

    ``where`` is the file and ``prefix`` the table, for errors. Raises RecipeError for an unknown
    key and a value of the wrong type.
    """
    hints = typing.get_type_hints(type(default))
    unknown = sorted(set(table) - set(hints))
    if unknown:
        raise RecipeError(
            f"{where} has the unknown key {prefix + unknown[0]!r}; "
            f"known here are {', '.join(hints)}"
        )
    values: dict[str, Any] = {}
    for name, found in table.items():
        key = prefix + name
        if dataclasses.is_dataclass(hints[name]):
            if not isinstance(found, dict):
                raise RecipeError(f"{where}: {key} is a table, [{key}]; found {found!r}")
            values[name] = with_values(getattr(default, name), found, where, key + ".")
        else:
            values[name] = _checked(hints[name], found, where, key)
    try:
        return dataclasses.replace(default, **values)
    except RecipeError as error:
        place = f"{where}, [{prefix[:-1]}]" if prefix else where
        raise RecipeError(f"{place}: {error}") from None


def check_values(recipe: Any, prefix: str) -> None:
    """Raise RecipeError where a field of a dataclass has a value of another type.

    What is as good, such as a list or a number of numpy, becomes the type of the field, so that
    recipes that ask for the same are the same. ``prefix`` is that of its table, for errors. Choices
    of a few words are left to the dataclass, which may be frozen.

    Example:
        >>> from flyweight.recipes import PruningRecipe
        >>> PruningRecipe(layers="conv*")
        Traceback (most recent call last):
        flyweight.errors.RecipeError: pruning.layers is a list; found 'conv*'
    """
    for name, hint in typing.get_type_hints(type(recipe)).items():
        found, key = getattr(recipe, name), prefix + name
        if dataclasses.is_dataclass(hint):
            if not isinstance(found, typing.cast(type, hint)):
                wanted = typing.cast(type, hint).__name__
                raise RecipeError(f"{key} is a {wanted}; found {found!r}")
        elif typing.get_origin(hint) is not Literal:
            plain = _checked(hint, [*found] if isinstance(found, tuple) else found, "", key)
            object.__setattr__(recipe, name, plain)


def _checked(hint: Any, found: Any, where: str, key: str) -> Any:
    """``found`` as the type ``hint``: bool, int, float, str, a Literal, or a tuple of these."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and isinstance(found, list):
        if arguments[-1] is Ellipsis:
            return tuple(_checked(arguments[0], value, where, key) for value in found)
        if len(found) == len(arguments):
            return tuple(
                _checked(part, value, where, key)
                for part, value in zip(arguments, found, strict=True)
            )
    if origin is Literal and found in arguments:
        return found
    if origin is Mapping and isinstance(found, Mapping):
        return {
            name: _checked(arguments[1], v, where, f"{key}.{name}") for name, v in found.items()
        }
    if hint is float and isinstance(found, numbers.Real) and not isinstance(found, bool):
        return float(found)
    if hint is int and isinstance(found, numbers.Integral) and not isinstance(found, bool):
        return int(found)
    if isinstance(hint, type) and type(found) is hint:
        return found
    wanted = " or ".join(map(repr, arguments)) if origin is Literal else _in_words(hint)
    place = f"{where}: " if where else ""
    raise RecipeError(f"{place}{key} is {wanted}; found {found!r}")


def _in_words(hint: Any) -> str:
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}
    return words.get(hint, "a table" if typing.get_origin(hint) is Mapping else "a list")
