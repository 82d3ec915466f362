"""CIFAR-10 networks by name, and the pretrained weights that come with flyweight."""

from __future__ import annotations

import json
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flyweight.cifar.resnet import CifarResNet
from flyweight.errors import ModelError
from flyweight.modules import register_architecture

__all__ = [
    "architectures",
    "compressed_file",
    "compressed_files",
    "create_model",
    "load_pretrained",
    "pretrained_card",
]


_FACTORIES = {
    f"resnet{depth}" + ("-b" if shortcut == "B" else "") + ("-stem32" if stem == 32 else ""): (
        partial(CifarResNet, depth, shortcut=shortcut, stem_width=stem)
    )
    for depth in (20, 32, 44, 56, 110)
    for shortcut in ("A", "B")
    for stem in (16, 32)
}
for _name, _factory in _FACTORIES.items():
    register_architecture(_name, _factory)


def architectures() -> tuple[str, ...]:
    """List the names that `create_model` knows.

    ``resnet20`` has shortcut A and a stem of 16 channels; ``-b`` stands for shortcut B,
    ``-stem32`` for a stem of 32 channels.

    Example:
        >>> architectures()[:3]
        ('resnet20', 'resnet20-stem32', 'resnet20-b')
    """
    return tuple(_FACTORIES)


def create_model(name: str, *, seed: int = 0) -> nn.Module:
    """Build a network by name with initial weights drawn from a seed.

    The global random state is restored afterwards.

    Args:
        name: one of `architectures`.
        seed: of the weights.

    Raises:
        ModelError: the name is unknown.

    Example:
        >>> sum(p.numel() for p in create_model("resnet20-b").parameters())
        272474
    """
    if name not in _FACTORIES:
        raise ModelError(
            f"architecture {name!r} is not of flyweight.cifar; choose one of "
            f"{', '.join(_FACTORIES)}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # that of the CPU, where weights are drawn
        return _FACTORIES[name]()


def _pretrained_file(name: str, suffix: str) -> bytes:
    file = resources.files("flyweight.cifar") / "pretrained" / f"{name}{suffix}"
    if not file.is_file():
        raise ModelError(
            f"no pretrained weights are shipped for {name!r}; train it with "
            f"flyweight.cifar.train_resnet({name!r}, folder)"
        )
    return file.read_bytes()


def load_pretrained(name: str) -> nn.Module:
    """Build a network by name with the pretrained weights that come with flyweight.

    Args:
        name: one of `architectures`.

    Returns:
        The network in evaluation mode.

    Raises:
        ModelError: the name is unknown, or no weights are shipped for it.

    Example:
        >>> load_pretrained("resnet20").training
        False
    """
    from safetensors.torch import load as load_safetensors

    model = create_model(name)
    model.load_state_dict(load_safetensors(_pretrained_file(name, ".safetensors")))
    return model.eval()


def compressed_files() -> tuple[str, ...]:
    """List the names of the compressed networks that come with flyweight, as `.fly` files."""
    folder = resources.files("flyweight.cifar") / "pretrained"
    return tuple(sorted(f.name[:-4] for f in folder.iterdir() if f.name.endswith(".fly")))


def compressed_file(name: str) -> Path:
    """Return the path of a compressed network that comes with flyweight.

    Args:
        name: one of `compressed_files`.

    Raises:
        ModelError: there is none of that name.
    """
    if name not in compressed_files():
        known = ", ".join(compressed_files())
        raise ModelError(f"no compressed network is named {name!r}; choose one of {known}")
    return Path(str(resources.files("flyweight.cifar") / "pretrained" / f"{name}.fly"))


def pretrained_card(name: str) -> dict[str, Any]:
    """Return how the shipped weights were trained: settings, seed, device, commit, accuracies.

    Args:
        name: as for `load_pretrained`, or one of `compressed_files`.

    Raises:
        ModelError: no weights are shipped for the name.

    Example:
        >>> pretrained_card("resnet20")["parameters"]
        269722
    """
    card: dict[str, Any] = json.loads(_pretrained_file(name, ".json"))
    return card
