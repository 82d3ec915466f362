"""Evaluate a model, a `.fly` file or a checkpoint by a metric of the caller's."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from torch import nn

from flyweight._files import FilePath
from flyweight.checkpoints import read_state_dict
from flyweight.compression.arguments import Evaluate, check_callable, score
from flyweight.errors import DataError, ModelError
from flyweight.format import is_fly_file
from flyweight.io import load
from flyweight.modules import Architecture, build, check_fillable, fill_
from flyweight.training import choose_device, describe_device

__all__ = ["Evaluation", "evaluate"]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The score of a model.

    Attributes:
        score: what ``evaluate`` returned.
        file_bytes: size of the file; None for a module or a folder of shards.
        device: that it ran on.
    """

    score: float
    file_bytes: int | None
    device: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, as JSON can hold them."""
        return dataclasses.asdict(self)


def evaluate(
    source: nn.Module | FilePath,
    *,
    evaluate: Evaluate,
    model: nn.Module | None = None,
    architecture: Architecture | None = None,
    device: str = "auto",
) -> Evaluation:
    """Evaluate a module, a ``.fly`` file or a checkpoint by a metric.

    Args:
        source: a module, which stays on its device and in its mode, or the path of a ``.fly``
            file, a ``.safetensors`` file or a torch state dict.
        evaluate: metric, ``evaluate(model) -> float``; it gets the model on the device, in
            evaluation mode.
        model: an instance to be filled from the file; it is moved to the device.
        architecture: a registered name, ``package.module:factory`` or a factory, in its place;
            a ``.fly`` file of a registered architecture needs neither.
        device: that a file is evaluated on: "auto", or as torch names it.

    Raises:
        DataError: ``evaluate`` is no function, or gives no finite number.
        ModelError: a file needs a model or an architecture, or a module comes with one.
        CheckpointError: the file is no checkpoint, or does not fit them.
        RecipeError: the device is not available.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> evaluate(layer, evaluate=lambda m: float(m.weight.numel()), device="cpu").score
        2.0
    """
    check_callable(evaluate, "evaluate", "evaluate(model) -> float")
    if evaluate is None:
        raise DataError("evaluate is None; give a function evaluate(model) -> float")
    target = choose_device(device)
    if isinstance(source, nn.Module):
        if model is not None or architecture is not None:
            raise ModelError(
                "model= and architecture= have no effect with a module as source; leave them out"
            )
        devices = {tensor.device for tensor in (*source.parameters(), *source.buffers())}
        target = devices.pop() if len(devices) == 1 else target
        value = score(evaluate, source, type(source).__name__)
        return Evaluation(value, None, describe_device(target))
    if not isinstance(source, str | os.PathLike):
        raise ModelError(
            f"source is a {type(source).__name__}; give a module, or save it first and give the "
            "path of the file"
        )
    path = Path(source)
    network = _filled(path, model, architecture).to(target)
    size = path.stat().st_size if path.is_file() else None
    return Evaluation(score(evaluate, network, str(path)), size, describe_device(target))


def _filled(path: Path, model: nn.Module | None, architecture: Architecture | None) -> nn.Module:
    """Return the model with the weights of a file."""
    if is_fly_file(path):
        return load(path, model, architecture=architecture)
    check_fillable(model, architecture)
    state = read_state_dict(path)
    if model is None:
        if architecture is None:
            raise ModelError(
                f"{path} holds weights without their network; give model= or architecture=, the "
                "network that they belong to"
            )
        model = build(architecture)
    fill_(model, state, where=str(path))
    return model.eval()
