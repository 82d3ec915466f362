"""Masks that follow a schedule while a network trains, in our loop or in yours."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flyweight.data import Split
from flyweight.errors import ModelError
from flyweight.parametrizations import MaskedWeight, attach_, detach_
from flyweight.pruning import (
    Pattern,
    choose_masks,
    matching,
    prunings,
    saliency_scores,
    select_weights,
    sparsity_at,
)
from flyweight.recipes import PruningRecipe
from flyweight.training import Progress, fit_, normalize, prefixed

__all__ = ["Pruning", "prune_"]

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]
_CALIBRATION_BATCH = 64


class Pruning:
    """The masks of a model in training; from the first step on its layers see the pruned weights.

    Puts a parametrization on each weight that the recipe chooses, so ``model`` is changed. Weights
    that are zero stay so, whatever the recipe: no stage undoes one before. `at`
    chooses the masks anew where the schedule says so; `finish_` takes the parametrizations off and
    leaves exact zeros.

    Arguments:
        model: any module.
        recipe: what to prune, and when.
        steps: of the whole run.
        epochs: of the whole run; needed where the recipe counts in epochs.
        batches: gives calibration batches for saliency, as often as it is called.
        seed: of what is pruned at random.

    Raises ModelError and RecipeError for what cannot be.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: PruningRecipe,
        *,
        steps: int,
        epochs: int = 0,
        batches: Batches | None = None,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.recipe = recipe
        self.weights: Mapping[str, Tensor] = select_weights(
            model, layers=recipe.layers, keep=recipe.keep, types=recipe.types
        )
        self._batches = batches
        self._prunings = prunings(
            recipe.schedule,
            steps=steps,
            ramp=recipe.ramp,
            interval=recipe.interval,
            unit=recipe.unit,
            epochs=epochs,
        )
        self._last = max(self._prunings)
        if recipe.criterion in ("taylor", "fisher") and batches is None:
            raise ModelError(f"pruning by {recipe.criterion!r} needs calibration batches")
        self._drawn: dict[str, Tensor] = {}
        if recipe.criterion == "random":
            generator = torch.Generator().manual_seed(seed)
            self._drawn = {
                name: torch.rand(weight.shape, generator=generator).to(weight.device)
                for name, weight in self.weights.items()
            }
        self._never = {name: weight.detach() == 0 for name, weight in self.weights.items()}
        self.masks = {name: MaskedWeight(~zero) for name, zero in self._never.items()}
        self._choose(0.0)  # finds out what the shapes do not allow
        attach_(model, self.masks)

    def at(self, step: int) -> None:
        """Make the masks those of the step that comes next, counted from 0."""
        for mask in self.masks.values():
            mask.recovery = self.recipe.recovery and step < self._last
        if step in self._prunings:
            for name, chosen in self._choose(self._prunings[step]).items():
                self.masks[name].mask.copy_(chosen & ~self._gone(name))

    def _choose(self, progress: float) -> dict[str, Tensor]:
        recipe = self.recipe
        grown = {
            glob: sparsity_at(recipe.schedule, progress, final)
            for glob, final in recipe.overrides.items()
        }
        scores = self._scores() if progress else self._magnitudes()
        lowest = -1.0 if recipe.pattern == "weights" else 0.0
        return choose_masks(
            {name: score.masked_fill(self._gone(name), lowest) for name, score in scores.items()},
            sparsity_at(recipe.schedule, progress, recipe.sparsity),
            scope=recipe.scope,
            pattern=Pattern.of(recipe.pattern),
            overrides=grown,
        )

    def _gone(self, name: str) -> Tensor:
        """Where a weight cannot come back: it was zero from the start, or has no recovery."""
        return self._never[name] if self.recipe.recovery else ~self.masks[name].mask

    def _magnitudes(self) -> dict[str, Tensor]:
        return {name: weight.detach().abs() for name, weight in self.weights.items()}

    def _scores(self) -> dict[str, Tensor]:
        if self.recipe.criterion == "random":
            return self._drawn
        if self.recipe.criterion == "magnitude":
            return self._magnitudes()
        assert self._batches is not None
        # Of the dense weights, by what the network with the masks of before loses.
        recoveries = [mask.recovery for mask in self.masks.values()]
        for mask in self.masks.values():
            mask.recovery = True
        try:
            return saliency_scores(
                self.model, self.weights, self._batches(), criterion=self.recipe.criterion
            )
        finally:
            for mask, recovery in zip(self.masks.values(), recoveries, strict=True):
                mask.recovery = recovery

    @property
    def sparsity(self) -> float:
        """Fraction of the weights chosen that the masks prune now."""
        masks = [mask.mask for mask in self.masks.values()]
        return sum(int((~m).sum()) for m in masks) / max(1, sum(m.numel() for m in masks))

    def state_dict(self) -> dict[str, Any]:
        """The masks, bool tensors by name of the weight."""
        return {name: mask.mask.clone() for name, mask in self.masks.items()}

    def finish_(self) -> tuple[str, ...]:
        """Leave exact zeros in plain weights, whose names are returned.

        Raises ModelError unless all the zeros that the masks ask for are there, or where nothing
        else is; warns where sparsity is not what the recipe asked for, unless that was 0.
        """
        detach_(self.model, self.masks)
        wanted = sum(
            matching(name, self.recipe.overrides, self.recipe.sparsity) * weight.numel()
            for name, weight in self.weights.items()
        )
        born = sum(int(zero.sum()) for zero in self._never.values())
        _check_zeros(self.model, self.masks, wanted or born)
        return tuple(self.masks)


def _check_zeros(model: nn.Module, masks: Mapping[str, MaskedWeight], asked: float) -> None:
    weights = {name: model.get_parameter(name).detach() for name in masks}
    total = sum(weight.numel() for weight in weights.values())
    zeros = sum(int((weight == 0).sum()) for weight in weights.values())
    for name, weight in weights.items():
        if bool(weight[~masks[name].mask].any()):
            raise ModelError(f"tensor {name!r} has values where its mask says zero")
    if zeros == total:
        raise ModelError(
            f"a sparsity of {asked / total:g} leaves none of the {total} weights; ask for less"
        )
    if abs(zeros - asked) > max(1.0, 0.001 * total):
        warnings.warn(
            f"sparsity {zeros / total:.4f} was reached where {asked / total:.4f} was asked for",
            stacklevel=4,
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
    """Prune while ``model`` retrains; return the names of the pruned weights.

    Afterwards the weights hold exact zeros. Raises ModelError if what is reached is not what was
    asked for.
    """
    training = recipe.training
    per_epoch = max(1, len(data.labels) // training.batch_size)
    steps = training.epochs * per_epoch

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        some = torch.randperm(len(data.labels), generator=generator)[: recipe.calibration]
        for few in torch.split(some.to(data.labels.device), _CALIBRATION_BATCH):
            yield normalize(data.images[few]), data.labels[few]

    pruning = Pruning(
        model, recipe, steps=steps, epochs=training.epochs, batches=batches, seed=seed
    )
    if not steps:
        pruning.at(0)
    result = fit_(
        model,
        data,
        training,
        seed=seed,
        teacher=teacher,
        before_step=lambda step, _: pruning.at(step),
        checkpoint=checkpoint,
        progress=prefixed(progress, "prune and retrain"),
    )
    if result.averaged is not None:  # of the dense weights; its masks are those of the last step
        model.load_state_dict(result.averaged.state_dict())
    return pruning.finish_()
