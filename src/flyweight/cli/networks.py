"""Open the network, and the task, that the arguments of a command name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flyweight.cli.outputs import check_input
from flyweight.cli.progress import Progress
from flyweight.errors import CheckpointError, DataError, ModelError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["load_task", "named_network", "open_network"]

_TASK_KEYS = ("data", "loss", "evaluate", "teacher")
_TASK_EXAMPLE = '{"data": loader, "evaluate": accuracy}'


def named_network(model: str, architecture: str | None) -> nn.Module | Path:
    """Return the network that MODEL names, pretrained or built, or the path of its file.

    Args:
        model: name of a pretrained or compressed network, ``package.module:factory``, or a file.
        architecture: what the weights of a file belong to.

    Raises:
        ModelError: the network cannot be built, or it is none of a file and has an architecture.
        CheckpointError: there is no such network or file.
    """
    from flyweight.cifar import architectures, compressed_file, compressed_files, load_pretrained
    from flyweight.modules import build

    check_input(model)
    path = Path(model)
    if model in compressed_files() and not path.exists():
        return compressed_file(model)
    if model not in architectures() and (":" not in model or path.exists()):
        if not path.exists():
            raise CheckpointError(_nothing_named(model, architectures() + compressed_files()))
        return path
    if architecture is not None:
        raise ModelError(f"--architecture has no effect with the network {model}; leave it out")
    return build(model).eval() if ":" in model else load_pretrained(model)


def open_network(model: str, architecture: str | None) -> nn.Module:
    """Return the network that MODEL names: pretrained, built, or filled from a checkpoint.

    Raises:
        ModelError: as in `named_network`, or a file comes without its architecture.
        CheckpointError: as in `named_network`, or the file is no checkpoint that fits.
    """
    from flyweight.checkpoints import read_state_dict
    from flyweight.modules import build, fill_

    named = named_network(model, architecture)
    if not isinstance(named, Path):
        return named
    state = read_state_dict(named)
    if architecture is None:
        raise ModelError(
            f"{model} holds weights without their network; give --architecture with a name or "
            "package.module:factory, or compress the weights alone with flyweight "
            "compress-checkpoint"
        )
    network = build(architecture)
    fill_(network, state, where=model)
    return network.eval()


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
        ModelError: there is no such function.
        DataError: there is no task for the network, or the function returns something else.
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
    from flyweight.modules import import_path

    function = import_path(task, "--task")
    try:
        wanted = inspect.signature(function).parameters
    except (TypeError, ValueError):  # a function that is not written in Python
        return function()
    return function(**{name: value for name, value in options.items() if name in wanted})


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
