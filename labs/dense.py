"""The dense ResNet-20 that the tables of the labs start from.

It has 90.90 % of the test images; the network in `flyweight.cifar` is a later one. Tables that are
measured again move to that one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from flyweight.cifar import create_model

__all__ = ["load_pretrained", "pretrained_card"]

_FILE = Path(__file__).parent / "networks" / "resnet20-48-epochs.safetensors"


def load_pretrained(name: str) -> nn.Module:
    """Return the dense network of the labs, in evaluation mode."""
    model = create_model(name)
    model.load_state_dict(load_file(_FILE))
    return model.eval()


def pretrained_card(name: str) -> dict[str, Any]:
    """Return how that network was trained, and its accuracies."""
    card: dict[str, Any] = json.loads(_FILE.with_suffix(".json").read_text(encoding="utf-8"))
    if card["architecture"] != name:
        raise ValueError(f"the labs have no dense {name}; they start from {card['architecture']}")
    return card
