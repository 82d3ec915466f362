"""The networks that flyweight knows by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import resources
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from torch import nn

from flyweight.errors import ModelError
from flyweight.cifar.resnet import CifarResNet, Shortcut

__all__ = ["architectures", "create_model", "load_pretrained", "pretrained_card"]


def _resnet(depth: int, shortcut: Shortcut, stem_width: int) -> Callable[[], nn.Module]:
    return lambda: CifarResNet(depth, shortcut=shortcut, stem_width=stem_width)


_FACTORIES: dict[str, Callable[[], nn.Module]] = {
    f"resnet{depth}" + ("-b" if shortcut == "B" else "") + ("-stem32" if stem == 32 else ""): (
        _resnet(depth, shortcut, stem)
    )
    for depth in (20, 32, 44, 56, 110)
    for shortcut in ("A", "B")
    for stem in (16, 32)
}


def architectures() -> tuple[str, ...]:
    """Names that `create_model` knows.

    ``resnet20`` has shortcut A and a 16-channel stem; ``-b`` means shortcut B, ``-stem32`` a
    32-channel stem.
    """
    return tuple(_FACTORIES)


def create_model(name: str, *, seed: int = 0) -> nn.Module:
    """Build a network by name with fresh weights drawn from ``seed``.

    The global random state stays as it was. Raises ModelError for an unknown name.

    Example:
        >>> sum(p.numel() for p in create_model("resnet20-b").parameters())
        272474
    """
    if name not in _FACTORIES:
        raise ModelError(f"architecture {name!r} is unknown; known are {', '.join(_FACTORIES)}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # that of the CPU, where weights are drawn
        return _FACTORIES[name]()


def _pretrained_file(name: str, suffix: str) -> bytes:
    file = resources.files("flyweight.cifar") / "pretrained" / f"{name}{suffix}"
    if not file.is_file():
        raise ModelError(
            f"no pretrained weights are shipped for {name!r}; "
            f"train some with `flyweight train {name}` and pass the checkpoint"
        )
    return file.read_bytes()


def load_pretrained(name: str) -> nn.Module:
    """Build a network by name with the weights shipped with flyweight.

    Raises ModelError for an unknown name or one without shipped weights.
    """
    model = create_model(name)
    model.load_state_dict(load_safetensors(_pretrained_file(name, ".safetensors")))
    return model.eval()


def pretrained_card(name: str) -> dict[str, Any]:
    """How the shipped weights were trained: recipe, seed, epochs, device, commit and accuracies."""
    card: dict[str, Any] = json.loads(_pretrained_file(name, ".json"))
    return card
