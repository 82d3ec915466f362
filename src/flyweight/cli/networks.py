"""Open the network, and the task, that the arguments of a command name."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flyweight.cli.outputs import check_input
from flyweight.cli.progress import Progress
from flyweight.errors import CheckpointError, DataError, ModelError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["load_task", "open_network"]

_TASK_KEYS = ("data", "loss", "evaluate", "teacher")
_TASK_EXAMPLE = '{"data": loader, "evaluate": accuracy}'


def open_network(model: str, architecture: str | None, *, may_be_fly: bool = False) -> nn.Module:
    """Return the network that MODEL names: pretrained, built, or filled from a file.

    Args:
        model: a pretrained network's name, ``package.module:factory``, or a file.
        architecture: what the weights of a file belong to.
        may_be_fly: whether the file may be a ``.fly`` file.

    Raises:
        ModelError: there is no such network, or a file comes without its architecture.
        CheckpointError: the file is none, or does not fit the architecture.
    """
    from flyweight import load
    from flyweight.checkpoints import read_state_dict
    from flyweight.cifar import architectures, load_pretrained
    from flyweight.format import is_fly_file
    from flyweight.modules import build, fill_

    check_input(model)
    path = Path(model)
    is_name = model in architectures() or (":" in model and not path.exists())
    if is_name and architecture is not None:
        raise ModelError(f"--architecture has no effect with the network {model}; leave it out")
    if is_name:
        return load_pretrained(model) if ":" not in model else build(model).eval()
    if not path.exists():
        raise CheckpointError(_nothing_named(model, architectures()))
    if is_fly_file(path):
        if not may_be_fly:
            raise CheckpointError(
                f"{model} is a .fly file already; decompress it first to compress it again"
            )
        return load(path, architecture=architecture or _architecture_in(path))
    state = read_state_dict(path)
    if architecture is None:
        raise ModelError(
            f"{model} holds weights without their network; give --architecture with a name or "
            "package.module:factory, or compress the weights alone with flyweight "
            "compress-checkpoint"
        )
    network = build(architecture)
    fill_(network, state, where=model)
    return network.eval()


def _architecture_in(path: Path) -> str:
    """Return the architecture that a ``.fly`` file names, if flyweight knows it."""
    from flyweight.format import Reader
    from flyweight.modules import architectures

    with Reader(path) as reader:
        name = reader.metadata.get("architecture")
    if name not in architectures():
        raise ModelError(
            f"{path} does not name a network of flyweight; give --architecture "
            "package.module:factory"
        )
    return str(name)


def _nothing_named(model: str, names: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(model, names, 1)
    network = f"the network {close[0]}" if close else "a network such as resnet20"
    return (
        f"there is no file or network {model!r}; give {network}, a checkpoint, or "
        "package.module:factory"
    )


def load_task(
    task: str | None,
    network: nn.Module,
    where: str,
    *,
    data: Path | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the keyword arguments of `flyweight.compress` that belong to a task.

    Args:
        task: ``package.module:function``; the function takes no arguments, or some of ``data``,
            ``device`` and ``seed`` by name. None is CIFAR-10 for the networks that come with
            flyweight.
        network: that the task is for.
        where: names the network in errors.
        data: folder of CIFAR-10.
        device: for the images of CIFAR-10.
        seed: of their order and augmentation.
        progress: shows the download.

    Raises:
        DataError: there is no such function, or it returns something else.
    """
    from flyweight import cifar
    from flyweight.modules import architecture_of

    if task is not None:
        found = _call(task, {"data": data, "device": device, "seed": seed})
        return _checked(found, task)
    if architecture_of(network) not in cifar.architectures():
        raise DataError(
            f"there is no task for {where}; give --task package.module:function, a function that "
            f"returns arguments of flyweight.compress such as {_TASK_EXAMPLE}"
        )
    return dict(cifar.task(data=data, device=device, seed=seed, progress=progress))


def _call(task: str, options: Mapping[str, Any]) -> Any:
    function = _import(task)
    try:
        wanted = inspect.signature(function).parameters
    except (TypeError, ValueError):  # a function that is not written in Python
        return function()
    return function(**{name: value for name, value in options.items() if name in wanted})


def _import(task: str) -> Callable[..., Any]:
    module, _, name = task.partition(":")
    try:
        if not module or not name:
            raise ValueError("it has not the form package.module:function")
        function = getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:  # importing runs the module, which may raise anything
        reason = str(error) or type(error).__name__
        if isinstance(error, SystemExit):
            reason = "the module calls sys.exit"
        raise DataError(
            f"--task {task} cannot be imported: {reason}; give package.module:function"
        ) from error
    if not callable(function):
        raise DataError(f"--task {task} is a {type(function).__name__}; name a function")
    checked: Callable[..., Any] = function
    return checked


def _checked(found: Any, task: str) -> dict[str, Any]:
    if not isinstance(found, Mapping):
        raise DataError(
            f"--task {task} returns a {type(found).__name__}; return a dict such as {_TASK_EXAMPLE}"
        )
    for key in found:
        if key not in _TASK_KEYS:
            known = ", ".join(_TASK_KEYS)
            raise DataError(f"--task {task} returns the unknown key {key!r}; known are {known}")
    return dict(found)
