"""The lossy stages of a compression: prune and retrain, share and tune, finish."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from flyweight.batch_norm import fold_batch_norms_
from flyweight.compressed import CompressedModel, CompressedTensor
from flyweight.data import Split
from flyweight.errors import FlyweightError, ModelError
from flyweight.parametrizations import MaskedWeight, SharedWeight, attach_, detach_
from flyweight.pruning import cubic_sparsity, global_magnitude_masks, select_weights
from flyweight.quantization import share
from flyweight.recipes import PruningRecipe, Recipe, SharingRecipe
from flyweight.training import Progress, fit_

__all__ = ["check_model", "finish", "prune_", "share_"]


def check_model(model: nn.Module) -> None:
    """Raise ModelError for a model without parameters or with values that are not finite."""
    if not any(parameter.numel() for parameter in model.parameters()):
        raise ModelError("the model has no parameters, so there is nothing to compress")
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            count = int((~torch.isfinite(tensor)).sum())
            raise ModelError(
                f"tensor {name!r} holds {count} values that are NaN or infinite; "
                "repair the checkpoint"
            )


def prune_(
    model: nn.Module,
    recipe: PruningRecipe,
    data: Split,
    *,
    seed: int,
    teacher: nn.Module | None = None,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> tuple[str, ...]:
    """Prune by global magnitude while ``model`` retrains; return the names of the pruned weights.

    Afterwards the weights hold exact zeros. Raises ModelError if what is reached is not what was
    asked for.
    """
    weights = select_weights(model, layers=recipe.layers, keep=recipe.keep)
    masks = {
        name: MaskedWeight(torch.ones_like(weight, dtype=torch.bool))
        for name, weight in weights.items()
    }
    attach_(model, masks)

    def choose_masks(sparsity: float) -> None:
        chosen = global_magnitude_masks({n: w.detach() for n, w in weights.items()}, sparsity)
        for name, mask in chosen.items():
            masks[name].mask.copy_(mask)

    def before_step(step: int, steps: int) -> None:
        ramp = min(int(recipe.ramp * steps), steps - 1)  # the last step has all the sparsity
        for mask in masks.values():
            mask.recovery = recipe.recovery and step < ramp
        if step == ramp or (step < ramp and step % recipe.interval == 0):
            choose_masks(cubic_sparsity(step / ramp if ramp else 1.0, recipe.sparsity))

    if recipe.training.epochs == 0:
        choose_masks(recipe.sparsity)
    fit_(
        model,
        data,
        recipe.training,
        seed=seed,
        teacher=teacher,
        before_step=before_step,
        checkpoint=checkpoint,
        progress=_prefixed(progress, "prune and retrain"),
    )
    detach_(model, masks)
    _check_sparsity(model, tuple(masks), recipe.sparsity)
    return tuple(masks)


def _check_sparsity(model: nn.Module, names: tuple[str, ...], asked: float) -> None:
    weights = [model.get_parameter(name) for name in names]
    total = sum(w.numel() for w in weights)
    zeros = sum(int((w == 0).sum()) for w in weights)
    if zeros < round(asked * total):
        raise ModelError(
            f"{zeros} of {total} weights are zero after pruning, not the "
            f"{round(asked * total)} asked for"
        )
    if zeros == total:
        raise ModelError(f"a sparsity of {asked} leaves none of the {total} weights; ask for less")
    if zeros > round(asked * total) + 0.001 * total:
        warnings.warn(
            f"sparsity {zeros / total:.4f} was reached where {asked:.4f} was asked for",
            stacklevel=3,
        )


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
            start = share(weight, bits=bits[name], init=recipe.init)
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
        progress=_prefixed(progress, "train the shared values"),
    )
    compressed: dict[str, CompressedTensor] = {}
    for name, weight in weights.items():
        tensor = shared[name].compressed(weight)
        levels = _rounded(tensor.levels, getattr(torch, recipe.storage))
        compressed[name] = CompressedTensor(tensor.symbols, levels)
    detach_(model, names)
    for name, tensor in compressed.items():
        model.get_parameter(name).data.copy_(tensor.dequantize())
        if bool(tensor.dequantize()[zeros[name]].any()):
            raise ModelError(f"tensor {name!r} lost zeros while its shared values were trained")
    return compressed


def finish(
    model: nn.Module,
    shared: Mapping[str, CompressedTensor],
    recipe: Recipe,
    *,
    metadata: Mapping[str, str],
) -> CompressedModel:
    """The compressed model: shared tensors as symbols and levels, all others as they are stored.

    Folds batch normalisation into two vectors a layer and rounds the other floats, if the recipe
    says so. Changes ``model``.
    """
    if recipe.fold_batch_norm:
        fold_batch_norms_(model)
    tensors: dict[str, CompressedTensor | Tensor] = {}
    aliases: dict[str, str] = {}
    owners: dict[int, str] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if id(value) in owners:
            aliases[name] = owners[id(value)]
            continue
        owners[id(value)] = name
        tensors[name] = shared.get(name, _rounded(value.detach(), getattr(torch, recipe.dense)))
    return CompressedModel(tensors, aliases, metadata)


def _rounded(value: Tensor, storage: torch.dtype) -> Tensor:
    """float32 values rounded to what ``storage`` can hold; others, and any overflow, untouched."""
    if value.dtype != torch.float32:
        return value.clone()
    rounded = value.to(storage).float()
    return rounded if bool(torch.isfinite(rounded).all()) else value.clone()


def _prefixed(progress: Progress | None, stage: str) -> Progress | None:
    if progress is None:
        return None
    return lambda text, done, total: progress(f"{stage}, {text}", done, total)
