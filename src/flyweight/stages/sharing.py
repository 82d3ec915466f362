"""Let the weights that are left share few values, and train these."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from flyweight.compressed import CompressedTensor
from flyweight.data import Split
from flyweight.errors import FlyweightError, ModelError
from flyweight.parametrizations import SharedWeight, attach_, detach_
from flyweight.quantization import share
from flyweight.recipes import SharingRecipe
from flyweight.stages.finishing import rounded
from flyweight.training import Progress, fit_, prefixed

__all__ = ["share_"]


def share_(
    model: nn.Module,
    names: tuple[str, ...],
    recipe: SharingRecipe,
    data: Split,
    *,
    seed: int,
    teacher: nn.Module | None = None,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, CompressedTensor]:
    """Let the non-zero weights named share few values, and train these. Changes ``model``.

    Raises ModelError if a zero was lost on the way.
    """
    weights = {name: model.get_parameter(name) for name in names}
    bits = recipe.bits_of({name: weight.numel() for name, weight in weights.items()})
    shared: dict[str, SharedWeight] = {}
    for name, weight in weights.items():
        try:
            start = share(weight, bits=bits[name], init=recipe.init, seed=seed)
        except FlyweightError as error:
            raise type(error)(f"tensor {name!r}: {error}") from error
        shared[name] = SharedWeight(start.symbols, start.levels.numel())
    zeros = {name: weight.detach() == 0 for name, weight in weights.items()}
    attach_(model, shared)

    def before_step(step: int, steps: int) -> None:
        if step and step % recipe.interval == 0 and step < recipe.settle * steps:
            for name, weight in weights.items():
                shared[name].reassign_(weight)

    fit_(
        model,
        data,
        recipe.training,
        seed=seed,
        teacher=teacher,
        before_step=before_step,
        checkpoint=checkpoint,
        progress=prefixed(progress, "train the shared values"),
    )
    compressed: dict[str, CompressedTensor] = {}
    for name, weight in weights.items():
        tensor = shared[name].compressed(weight)
        levels = rounded(tensor.levels, getattr(torch, recipe.storage))
        compressed[name] = CompressedTensor(tensor.symbols, levels)
    detach_(model, names)
    for name, tensor in compressed.items():
        model.get_parameter(name).data.copy_(tensor.dequantize())
        if bool(tensor.dequantize()[zeros[name]].any()):
            raise ModelError(f"tensor {name!r} lost zeros while its shared values were trained")
    return compressed
