"""Validate frozen dataclass configurations, and fill them from TOML tables."""

from __future__ import annotations

import collections.abc
import dataclasses
import hashlib
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from flyweight.errors import RecipeError

__all__ = [
    "AtLeastOne",
    "Fraction",
    "NotNegative",
    "NotNegativeInt",
    "Positive",
    "ProperFraction",
    "check_fields",
    "config_digest",
    "from_table",
]

Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
ProperFraction = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]
NotNegativeInt = Annotated[int, msgspec.Meta(ge=0)]

_Config = TypeVar("_Config")


_known_hints: dict[type, dict[str, Any]] = {}


def _hints(kind: type) -> dict[str, Any]:
    if kind not in _known_hints:
        _known_hints[kind] = typing.get_type_hints(kind, include_extras=True)
    return _known_hints[kind]


def _dataclass_in(hint: Any) -> Any:
    """The dataclass of a hint ``C`` or ``C | None``; None where there is none."""
    if isinstance(hint, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    return hint if dataclasses.is_dataclass(hint) else None


def check_fields(config: Any, table: str) -> None:
    """Check every field of a dataclass against its type and bounds, in ``__post_init__``.

    Values that are as good, such as a list for a tuple or a number of NumPy, become the type of
    the field, so that equal settings compare equal.

    Args:
        config: a dataclass, frozen or not, whose hints may carry `msgspec.Meta` bounds.
        table: its name in a recipe, for errors; "" for the recipe itself.

    Raises:
        RecipeError: a field has a value of another type, or out of its bounds.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Config:
        ...     sparsity: ProperFraction = 0.5
        ...     def __post_init__(self) -> None:
        ...         check_fields(self, "pruning")
        >>> _hints(Config)["sparsity"] = ProperFraction
        >>> Config(sparsity=2)
        Traceback (most recent call last):
        flyweight.errors.RecipeError: pruning.sparsity: expected `float` < 1.0; found 2
    """
    for name, hint in _hints(type(config)).items():
        found, key = getattr(config, name), f"{table}.{name}".removeprefix(".")
        if kind := _dataclass_in(hint):
            if not isinstance(found, kind) and not (found is None and hint is not kind):
                raise RecipeError(f"{key}: expected a {kind.__name__}; found {found!r}")
        elif not (callable(found) and _takes_functions(hint)):
            object.__setattr__(config, name, _converted(found, hint, key))


def _takes_functions(hint: Any) -> bool:
    """Whether a hint is a ``Callable``, or a union with one."""
    parts = (hint, *typing.get_args(hint))
    return any(typing.get_origin(part) is collections.abc.Callable for part in parts)


def _without_functions(hint: Any) -> Any:
    """The hint ``Literal[…] | Callable`` without the function, which has no form in TOML."""
    parts = typing.get_args(hint)
    if any(typing.get_origin(part) is Literal for part in parts):
        return next(part for part in parts if typing.get_origin(part) is Literal)
    return hint


def _converted(found: Any, hint: Any, key: str) -> Any:
    plain, hint = _plain(found), _without_functions(hint)
    try:
        return msgspec.convert(plain, hint)
    except msgspec.ValidationError as error:
        text = str(error).partition(" - at ")[0]
        choices = [c for part in _parts(hint) for c in typing.get_args(part)]
        if text.startswith("Invalid enum value") and choices:
            text = f"expected one of {', '.join(str(c) for c in choices)}"
        raise RecipeError(f"{key}: {text[0].lower()}{text[1:]}; found {found!r}") from None
    except OverflowError:
        raise RecipeError(f"{key}: the number is too large; found one of its kind") from None


def _parts(hint: Any) -> tuple[Any, ...]:
    """The ``Literal`` of a hint, which may be a union."""
    parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return tuple(part for part in parts if typing.get_origin(part) is Literal)


def _plain(value: Any) -> Any:
    """NumPy and torch scalars as Python's, also inside of lists and mappings."""
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    return value.item() if hasattr(value, "item") and not getattr(value, "ndim", 0) else value


def from_table(
    kind: type[_Config], table: Any, where: str, name: str = "", default: _Config | None = None
) -> _Config:
    """Make a dataclass of a TOML table.

    Args:
        kind: a dataclass; a field that is one itself is a table of its own, whose keys replace
            those of the field's default.
        table: the table.
        where: the file, for errors.
        name: of the table, for errors; "" for the whole document.
        default: gives the values of the keys that the table leaves out.

    Raises:
        RecipeError: an unknown key, a value of another type or out of its bounds.
    """
    if not isinstance(table, Mapping):
        raise RecipeError(f"{where}: {name} is a table, [{name}]; found {table!r}")
    hints = _hints(kind)
    for key in table:
        if key not in hints:
            known = ", ".join(hints)
            full = f"{name}.{key}".removeprefix(".")
            raise RecipeError(f"{where}: the key {full!r} is unknown; known here are {known}")
    values = {
        key: from_table(
            inner, value, where, f"{name}.{key}".removeprefix("."), getattr(kind, key, None)
        )
        if (inner := _dataclass_in(hints[key]))
        else value
        for key, value in table.items()
    }
    try:
        return kind(**values) if default is None else dataclasses.replace(default, **values)  # type: ignore[type-var]
    except RecipeError as error:
        raise RecipeError(str(error) if name else f"{where}: {error}") from None


def config_digest(config: Any) -> str:
    """Return 16 hexadecimal digits that tell a configuration from others, in any process.

    A function in it counts by its name and its code, and not by where it lies in memory.

    Example:
        >>> config_digest((1, 2)) == config_digest((1, 3))
        False
        >>> config_digest(lambda x: x + 1) == config_digest(lambda x: x - 1)
        False
    """
    return hashlib.sha256(repr(_without_addresses(config)).encode()).hexdigest()[:16]


def _without_addresses(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
        return (type(value).__name__, [(name, _without_addresses(part)) for name, part in fields])
    if isinstance(value, Mapping):
        return {key: _without_addresses(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [_without_addresses(part) for part in value]
    if isinstance(value, frozenset):  # whose order differs from process to process
        return sorted(map(repr, value))
    if not callable(value):
        return value
    code = getattr(value, "__code__", None)
    name = getattr(value, "__qualname__", type(value).__qualname__)
    if code is None:
        return name
    constants = [part for part in code.co_consts if not isinstance(part, types.CodeType)]
    return (name, code.co_code.hex(), code.co_names, _without_addresses(constants))
