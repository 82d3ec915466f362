"""Build a module from an architecture, and fill a module from a state dict.

An architecture is a registered name, an import path or a function. Names are registered with
`register_architecture`; those of the networks of `flyweight.cifar` are known from the start.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from flyweight._architectures import architectures, factory_named
from flyweight.errors import CheckpointError, ModelError
from flyweight.modules.import_paths import import_path

__all__ = [
    "Architecture",
    "architecture_of",
    "build",
    "fill_",
    "names_and_shapes",
    "without_wrappers",
]

Architecture = str | Callable[[], nn.Module]
"""A name of `architectures`, ``package.module:factory``, or a function that builds a module."""

_NAMES_SHOWN = 3


def architecture_of(model: nn.Module) -> str | None:
    """Return the registered name that a module was built by, None where it has none.

    It is in the attribute ``architecture`` of the module, and counts only if the module still has
    the tensors that the name stands for.

    Example:
        >>> architecture_of(nn.Linear(2, 2)) is None
        True
    """
    name = getattr(model, "architecture", None)
    if not isinstance(name, str) or name not in architectures():
        return None
    return name if names_and_shapes(model) == names_and_shapes(build(name)) else None


def build(architecture: Architecture) -> nn.Module:
    """Build a new module of an architecture, with its initial weights drawn from seed 0.

    The global random state of the CPU is restored afterwards.

    Args:
        architecture: a registered name, ``package.module:factory``, or a function. An import path
            runs the code of that module: never take one from a file.

    Returns:
        The module, in the mode in which the factory leaves it.

    Raises:
        ModelError: the name is unknown, or the factory cannot be imported, fails, or returns
            something other than a module.

    Example:
        >>> build("torch.nn:Identity")
        Identity()
    """
    factory = _factory_of(architecture)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            model = factory()
    except (Exception, SystemExit) as error:
        raise ModelError(f"{_label(architecture)} failed to build a module: {error!r}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"{_label(architecture)} returned a {type(model).__name__}, not a torch.nn.Module"
        )
    return model


def _label(architecture: Architecture) -> str:
    if isinstance(architecture, str):
        return f"architecture {architecture!r}"
    name = getattr(architecture, "__qualname__", type(architecture).__name__)
    return f"the architecture {name}"


def _factory_of(architecture: Architecture) -> Callable[[], nn.Module]:
    if isinstance(architecture, nn.Module):
        raise ModelError(
            f"the architecture is a {type(architecture).__name__} module; pass it as `model`, or "
            "pass a function that builds one"
        )
    if not isinstance(architecture, str):
        if not callable(architecture):
            raise ModelError(
                f"an architecture is a name or a function, not a {type(architecture).__name__}"
            )
        return architecture
    if ":" in architecture:
        return _imported(architecture)
    if (factory := factory_named(architecture)) is not None:
        return factory
    raise ModelError(f"architecture {architecture!r} is unknown; {_suggestion(architecture)}")


def _imported(path: str) -> Callable[[], nn.Module]:
    factory = import_path(path, "architecture")
    if isinstance(factory, nn.Module):
        raise ModelError(f"architecture {path!r} is a module; name a function that builds one")
    return factory


def _suggestion(name: str) -> str:
    if "." in name:
        module, _, attribute = name.rpartition(".")
        return f"write '{module}:{attribute}' to import it from a module"
    close = difflib.get_close_matches(name, architectures(), n=_NAMES_SHOWN)
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    return "give a registered name, or 'package.module:factory' to import one"


def names_and_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """List the names and shapes of a module's state in the order in which a file holds them.

    Tensors that share storage come once under the first name; their other names come last.

    Example:
        >>> names_and_shapes(nn.Linear(3, 2))
        {'weight': (2, 3), 'bias': (2,)}
    """
    state = model.state_dict(keep_vars=True)
    first: dict[int, str] = {}
    for name, value in state.items():
        first.setdefault(id(value), name)
    names = [*first.values(), *(name for name in state if name not in set(first.values()))]
    return {name: tuple(state[name].shape) for name in names}


def without_wrappers(names: Iterable[str]) -> dict[str, str]:
    """Map names of a state dict to those without the prefixes of wrapper modules.

    ``_orig_mod`` (torch.compile) is removed wherever it stands, and ``module`` (DataParallel,
    DistributedDataParallel) where all names begin with it. Names that would coincide stay.

    Example:
        >>> without_wrappers(["module._orig_mod.weight", "module._orig_mod.bias"])
        {'module._orig_mod.weight': 'weight', 'module._orig_mod.bias': 'bias'}
    """
    plain = {
        name: ".".join(part for part in name.split(".") if part != "_orig_mod") for name in names
    }
    while plain and all(name.startswith("module.") for name in plain.values()):
        plain = {name: short.removeprefix("module.") for name, short in plain.items()}
    unique = len(set(plain.values())) == len(plain) and all(plain.values())
    return plain if unique else {name: name for name in plain}


def fill_(
    model: nn.Module, state: Mapping[str, Tensor], *, where: str, strict: bool = True
) -> None:
    """Copy a state dict into a module, after checking names, shapes and types.

    A name that is absent counts as present if it shares storage with one that is given, as a tied
    output layer does. Prefixes of wrapper modules are ignored on both sides. Floating-point
    tensors are converted to the dtype of the module; other conversions must not change a value.

    Args:
        model: is changed, unless an error is raised.
        state: tensors by name.
        where: names the state in errors, such as the path of its file.
        strict: False ignores tensors that only one of the two has.

    Raises:
        CheckpointError: a name, a shape or a type differs, or the module has no memory for it.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> fill_(model, {"weight": torch.ones(1, 2), "bias": torch.zeros(1)}, where="the example")
        >>> model.weight.tolist()
        [[1.0, 1.0]]
    """
    own: dict[str, Tensor] = dict(model.state_dict(keep_vars=True))
    named = _by_own_names(own, state)
    _check_fit(own, named, where, strict)
    named = {name: value for name, value in named.items() if name in own}
    del own  # a module may have thousands of tensors
    try:
        model.load_state_dict(named, strict=False)
    except Exception as error:  # hooks of a module may raise anything
        raise CheckpointError(f"{where} cannot be loaded into the model: {error}") from error


def _check_fit(
    own: Mapping[str, Tensor], named: Mapping[str, Tensor], where: str, strict: bool
) -> None:
    groups: dict[object, list[str]] = {}
    for name, tensor in own.items():
        groups.setdefault(_storage(tensor), []).append(name)
    missing = [names[0] for names in groups.values() if not named.keys() & set(names)]
    surplus = [name for name in named if name not in own]
    if strict and (missing or surplus):
        raise CheckpointError(f"{where} does not fit the model: {_difference(missing, surplus)}")
    for name, value in named.items():
        if name in own:
            _check_tensor(name, value, own[name], where)
    for names in groups.values():
        _check_tied([name for name in names if name in named], named, where)


def _by_own_names(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the state under the model's names, where only wrappers make a difference."""
    if not own.keys() - state.keys() and not state.keys() - own.keys():
        return state
    by_plain = {short: name for name, short in without_wrappers(own).items()}
    plain = without_wrappers(state)
    named = {by_plain.get(short, short): state[name] for name, short in plain.items()}
    exact = sum(name in own for name in state)
    return named if sum(name in own for name in named) > exact else state


def _storage(tensor: object) -> object:
    """Return a key that is equal for tensors of the same elements in memory."""
    if not isinstance(tensor, Tensor) or is_lazy(tensor) or tensor.is_meta:
        return id(tensor)
    if tensor.layout != torch.strided or not tensor.numel():
        return id(tensor)
    return (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())


def _difference(missing: list[str], surplus: list[str]) -> str:
    parts = []
    if missing:
        parts.append(f"it lacks {_listed(missing)}")
    if surplus:
        parts.append(f"the model has no {_listed(surplus)}")
    return f"{' and '.join(parts)}; use the model it was saved from, or strict=False to ignore this"


def _listed(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:_NAMES_SHOWN]))
    more = len(names) - _NAMES_SHOWN
    return shown if more <= 0 else f"{shown} and {more} more"


def _check_tensor(name: str, value: Tensor, own: object, where: str) -> None:
    if not isinstance(own, Tensor) or is_lazy(own):
        return
    if value.shape != own.shape:
        raise CheckpointError(
            f"{where} does not fit the model: {name!r} has shape {tuple(value.shape)} and needs "
            f"{tuple(own.shape)}; use the model it was saved from"
        )
    if own.is_meta:
        raise CheckpointError(
            f"tensor {name!r} of the model is on the meta device and holds no values; "
            "move the model with to_empty(device='cpu') first"
        )
    if value.dtype == own.dtype or (value.is_floating_point() and own.is_floating_point()):
        return
    if value.is_complex() and own.is_complex():
        return
    exact = not (value.is_floating_point() or own.is_floating_point())
    exact &= not (value.is_complex() or own.is_complex())
    if not exact or not torch.equal(value.to(own.dtype).to(value.dtype), value):
        raise CheckpointError(
            f"{where} does not fit the model: {name!r} is of {value.dtype}, which {own.dtype} "
            "cannot hold; convert the model or the checkpoint"
        )


def _check_tied(names: list[str], named: Mapping[str, Tensor], where: str) -> None:
    for name in names[1:]:
        first, other = named[names[0]], named[name]
        same = (first == other) | ((first != first) & (other != other))
        if other is not first and not bool(same.all()):
            raise CheckpointError(
                f"{where} does not fit the model: {names[0]!r} and {name!r} are one tensor in the "
                "model and differ there; untie them in the model"
            )
