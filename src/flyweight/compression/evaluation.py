"""Evaluate a model, a `.fly` file or a checkpoint by a metric of the caller's."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from torch import nn

from flyweight.checkpoints import read_state_dict
from flyweight.compression.arguments import Evaluate, check_callable, score
from flyweight.errors import DataError, ModelError
from flyweight.format import is_fly_file
from flyweight.io import load
from flyweight.modules import Architecture, build, fill_
from flyweight.training import choose_device, describe_device

__all__ = ["Evaluation", "evaluate"]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The score of a model.

    Attributes:
        score: what ``evaluate`` returned.
        file_bytes: size of the file; None for a module.
        device: that it ran on.
    """

    score: float
    file_bytes: int | None
    device: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, as JSON can hold them."""
        return dataclasses.asdict(self)


def evaluate(
    source: nn.Module | str | Path,
    *,
    evaluate: Evaluate,
    model: nn.Module | None = None,
    architecture: Architecture | None = None,
    device: str = "auto",
) -> Evaluation:
    """Evaluate a module, a ``.fly`` file or a checkpoint by a metric.

    Args:
        source: a module, or the path of a ``.fly`` file, a ``.safetensors`` file or a torch state
            dict.
        evaluate: metric, ``evaluate(model) -> float``; it gets the model on the device, in
            evaluation mode.
        model: an instance to be filled from the file.
        architecture: a registered name, ``package.module:factory`` or a factory, in its place;
            a ``.fly`` file of a registered architecture needs neither.
        device: "auto", or as torch names it.

    Raises:
        DataError: ``evaluate`` is no function, or gives no finite number.
        ModelError: a file needs a model or an architecture.
        CheckpointError: the file does not fit them.

    Example:
        >>> import torch
        >>> layer = nn.Linear(2, 1)
        >>> evaluate(layer, evaluate=lambda m: float(m.weight.numel()), device="cpu").score
        2.0
    """
    check_callable(evaluate, "evaluate", "evaluate(model) -> float")
    if evaluate is None:
        raise DataError("evaluate is None; give a function evaluate(model) -> float")
    target = choose_device(device)
    size = None
    if isinstance(source, nn.Module):
        network = source
    else:
        path = Path(source)
        if is_fly_file(path):
            network = load(path, model, architecture=architecture)
        else:
            state = read_state_dict(path)
            if model is None and architecture is None:
                raise ModelError(f"{path} is a checkpoint; give model= or architecture= to fill")
            network = model if model is not None else build(architecture)  # type: ignore[arg-type]
            fill_(network, state, where=str(path))
        size = path.stat().st_size
    devices = {parameter.device for parameter in network.parameters()}
    if not isinstance(source, nn.Module):
        network = network.to(target)
    elif len(devices) == 1:
        target = devices.pop()  # a module of the caller's stays where it is
    return Evaluation(score(evaluate, network, str(source)[:80]), size, describe_device(target))
