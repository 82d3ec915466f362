"""Masks that follow a schedule while a network trains, in our loop or in yours."""

from __future__ import annotations

import itertools
import operator
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flyweight.cifar import Split
from flyweight.errors import CheckpointError, ModelError
from flyweight.int8 import check_float
from flyweight.pruning.masked_weight import MaskedWeight
from flyweight.modules import (
    attach_,
    check_plain,
    dense_weight,
    detach_,
)
from flyweight.pruning.choice import Pattern, choose_masks
from flyweight.modules import matching, overrides_by_name, select_weights
from flyweight.pruning.schedules import prunings, sparsity_at
from flyweight.pruning.saliency import saliency_scores
from flyweight.recipes import PruningConfig
from flyweight._config import config_digest
from flyweight.modules.parametrize import first_revived
from flyweight.training import (
    Progress,
    train_,
    of_first_process,
    prefixed,
)
from flyweight.cifar import calibration_batches

__all__ = ["Pruning", "prune_"]

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]


class Pruning:
    """The masks of a model in training; from the first step on its layers see the pruned weights.

    Puts a parametrization on each weight that the recipe chooses, so ``model`` is changed. Weights
    that are zero stay so, whatever the recipe: no stage undoes one before. A tensor that it does
    not choose has a mask too where it holds zeros, which stays as it is and counts nowhere; one of
    nothing but zeros, as some layers begin with, has none and trains. `at`
    chooses the masks anew where the schedule says so; `finish_` takes the parametrizations off and
    leaves exact zeros. The masks are kept here too, since those in the model are a part of its
    state, which others load and average.

    Arguments:
        model: any module.
        recipe: what to prune, and when.
        steps: of the whole run.
        epochs: of the whole run; needed where the recipe counts in epochs.
        batches: gives calibration batches for saliency, as often as it is called.
        seed: of what is pruned at random.

    Raises ModelError and RecipeError for what cannot be, DataError where there are no calibration
    batches in ``batches``.

    Example:
        >>> model = nn.Linear(8, 4)
        >>> pruning = Pruning(model, PruningConfig(sparsity=0.5, interval=1), steps=4)
        >>> for step in range(4):
        ...     pruning.at(step)  # and a step of the optimiser
        >>> pruning.finish_(), int((model.weight == 0).sum())
        (('weight',), 16)
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: PruningConfig,
        *,
        steps: int,
        epochs: int = 0,
        batches: Batches | None = None,
        seed: int = 0,
    ) -> None:
        check_float(model)
        self.model = model
        self.recipe = recipe
        chosen = select_weights(model, layers=recipe.layers, keep=recipe.keep, types=recipe.types)
        self._names = tuple(chosen)
        check_plain(model, chosen)
        self._overrides = overrides_by_name(model, chosen, recipe.overrides)
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
                name: torch.rand(weight.shape, generator=generator)
                for name, weight in self.weights.items()
            }
        self._never = {name: weight.detach() == 0 for name, weight in self.weights.items()}
        self._chosen = {name: ~zero for name, zero in self._never.items()}
        self.masks = {name: MaskedWeight(kept.clone()) for name, kept in self._chosen.items()}
        self._check_end()
        others = {n: w.detach() for n, w in select_weights(model).items() if n not in chosen}
        kept = {name: weight != 0 for name, weight in others.items()}
        # Nothing but zeros is what a weight begins with, and not what pruning leaves of it.
        self._held = {n: mask for n, mask in kept.items() if bool(mask.any()) and not mask.all()}
        check_plain(model, self._held, advice="since nothing keeps its zeros")
        held = {name: MaskedWeight(kept.clone()) for name, kept in self._held.items()}
        self._attached = {**self.masks, **held}
        attach_(model, self._attached)

    def _check_end(self) -> None:
        """Refuse before training what could not be done in it, or is all zeros after it."""
        last = self._choose(1.0, self._magnitudes())
        total = sum(mask.numel() for mask in last.values())
        kept = sum(int((mask & ~self._never[name]).sum()) for name, mask in last.items())
        if not kept:
            raise ModelError(
                f"a sparsity of {self._asked / total:g} leaves none of the {total} weights; "
                "ask for less"
            )
        if self.recipe.criterion in ("taylor", "fisher"):
            one = [(inputs[:1], targets[:1]) for inputs, targets in self._calibration(1)]
            saliency_scores(self.model, self.weights, one, criterion=self.recipe.criterion)

    def _calibration(self, number: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """So many batches, or all there are, on the device of the weights."""
        assert self._batches is not None
        device = next(iter(self.weights.values())).device
        for inputs, targets in itertools.islice(self._batches(), number):
            yield inputs.to(device), targets.to(device)

    @property
    def _asked(self) -> float:
        """How many zeros the recipe asks for, or else how many there were."""
        asked = sum(
            matching(name, self._overrides, self.recipe.sparsity) * weight.numel()
            for name, weight in self.weights.items()
        )
        return asked or sum(int(zero.sum()) for zero in self._never.values())

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The dense weights that the optimiser trains, by name, where they are now."""
        return {name: dense_weight(self.model, name) for name in self._names}

    def at(self, step: int) -> None:
        """Make the masks those of the step that comes next, counted from 0."""
        self.resume(step)
        if step in self._prunings:
            progress = self._prunings[step]
            scores = self._scores() if progress else self._magnitudes()
            for name, chosen in self._choose(progress, scores).items():
                if self.recipe.criterion in ("taylor", "fisher"):  # each process has its own
                    chosen = of_first_process(chosen)
                self._keep(name, chosen & ~self._gone(name))

    def resume(self, step: int) -> None:
        """Set what a step goes with before which `at` was called already."""
        for mask in self.masks.values():
            mask.recovery = self.recipe.recovery and step < self._last

    def _keep(self, name: str, chosen: Tensor) -> None:
        self._chosen[name] = chosen
        self.masks[name].mask.copy_(chosen)

    def _choose(self, progress: float, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        recipe = self.recipe
        grown = {
            glob: sparsity_at(recipe.schedule, progress, final)
            for glob, final in self._overrides.items()
        }
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
        gone = self._never[name] if self.recipe.recovery else ~self._chosen[name]
        return gone.to(self.masks[name].mask.device)

    def _magnitudes(self) -> dict[str, Tensor]:
        return {name: weight.detach().abs() for name, weight in self.weights.items()}

    def _scores(self) -> dict[str, Tensor]:
        if self.recipe.criterion == "random":
            weights = self.weights
            return {name: drawn.to(weights[name].device) for name, drawn in self._drawn.items()}
        if self.recipe.criterion == "magnitude":
            return self._magnitudes()
        # Of the dense weights, by what the network with the masks of before loses.
        recoveries = [mask.recovery for mask in self.masks.values()]
        for mask in self.masks.values():
            mask.recovery = True
        try:
            return saliency_scores(
                self.model, self.weights, self._calibration(), criterion=self.recipe.criterion
            )
        finally:
            for mask, recovery in zip(self.masks.values(), recoveries, strict=True):
                mask.recovery = recovery

    @property
    def sparsity(self) -> float:
        """Fraction of the weights chosen that the masks prune now."""
        masks = [mask.mask for mask in self.masks.values()]
        return sum(int((~m).sum()) for m in masks) / max(1, sum(m.numel() for m in masks))

    @property
    def chosen(self) -> dict[str, Tensor]:
        """A copy of the masks that were chosen, bool tensors by name of the weight."""
        return {name: mask.clone() for name, mask in self._chosen.items()}

    @property
    def _kept(self) -> dict[str, Tensor]:
        """The masks that were chosen, and those of the weights that were not."""
        return {**self._chosen, **self._held}

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes: the masks, and what tells the recipe from others."""
        held = {name: mask.clone() for name, mask in self._held.items()}
        return {"recipe": config_digest(self.recipe), "masks": {**self.chosen, **held}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put masks that were chosen before in the place of those there are; choose none.

        Raises CheckpointError where they are of another model or recipe, and changes nothing then.
        """
        masks = state.get("masks") if "recipe" in state else None
        if not isinstance(masks, Mapping):
            raise CheckpointError(
                "this is not the state of a pruning, which has masks and a recipe; give what "
                "state_dict() returned"
            )
        shapes = {name: getattr(mask, "shape", None) for name, mask in masks.items()}
        if shapes != {name: mask.shape for name, mask in self._kept.items()}:
            raise CheckpointError("the masks in this state are those of another model or recipe")
        if state["recipe"] != config_digest(self.recipe):
            raise CheckpointError(
                "this state is of a run with another recipe; prepare the model with that one"
            )
        for name, mask in self._held.items():
            if not torch.equal(masks[name].to(mask), mask):
                raise CheckpointError(
                    f"this state is of a model with other zeros in tensor {name!r}, which the "
                    "recipe leaves as it is; prepare the one that it belongs to"
                )
        for name in self._names:
            self._keep(name, masks[name].to(self.masks[name].mask.device, torch.bool, copy=True))

    def check(self) -> None:
        """Raise ModelError where a layer sees a value in the place of a zero of any mask."""
        if name := first_revived(self.model, self._kept):
            raise ModelError(
                f"tensor {name!r} has values where its mask says zero; load the masks that "
                "belong to this model, or begin again"
            )

    def finish_(self) -> tuple[str, ...]:
        """Leave exact zeros in plain weights, whose names are returned.

        Where a mask was False there is a zero, whatever the masks in the model have become. Raises
        ModelError where nothing but zeros is left, or the parametrizations are off already; warns
        where sparsity is not what the recipe asked for, unless that was 0.
        """
        kept = self._kept
        for name, mask in self._attached.items():  # an average has all that ever were True
            mask.mask.logical_and_(kept[name].to(mask.mask.device))
        self.check()
        seen = [operator.attrgetter(name)(self.model).detach() for name in self._names]
        total = sum(weight.numel() for weight in seen)
        zeros = sum(int((weight == 0).sum()) for weight in seen)
        if zeros == total:
            raise ModelError(f"none of the {total} weights is other than zero; ask for less")
        detach_(self.model, self._attached)
        if abs(zeros - self._asked) > max(1.0, 0.001 * total):
            warnings.warn(
                f"sparsity {zeros / total:.4f} was reached where {self._asked / total:.4f} was "
                "asked for",
                stacklevel=3,
            )
        return self._names


def prune_(
    model: nn.Module,
    recipe: PruningConfig,
    data: Split,
    *,
    seed: int,
    teacher: nn.Module | None = None,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> tuple[str, ...]:
    """Prune while ``model`` retrains; return the names of the pruned weights.

    Afterwards the weights hold exact zeros.

    Arguments:
        model: takes images N×3×H×W, gives logits N×K; on the device of ``data``.
        recipe: what to prune, when, and how the network retrains.
        data: training images and their labels.
        seed: of the order of the images, and of what is pruned at random.
        teacher: gives the soft labels where the recipe distils.
        checkpoint: file that holds the state after each epoch; a run that was stopped goes on.
        progress: told how far the training is.

    Raises ModelError as `Pruning` does, and at the end of an epoch in which a zero came back; warns
    where the sparsity reached is not what was asked for.

    Example:
        >>> from flyweight.training import TrainingConfig
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
        >>> data = Split(torch.zeros(10, 3, 32, 32, dtype=torch.uint8), torch.arange(10))
        >>> recipe = PruningConfig(sparsity=0.9, training=TrainingConfig(epochs=1, ema_decay=0.0))
        >>> prune_(model, recipe, data, seed=0), int((model[1].weight == 0).sum())
        (('1.weight',), 27648)
    """
    training = recipe.training
    per_epoch = max(1, len(data.labels) // training.batch_size)
    steps = training.epochs * per_epoch

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        return calibration_batches(data, recipe.calibration, seed=seed)

    pruning = Pruning(
        model, recipe, steps=steps, epochs=training.epochs, batches=batches, seed=seed
    )
    if not steps:
        pruning.at(0)
    result = train_(
        model,
        data,
        training,
        seed=seed,
        teacher=teacher,
        before_step=lambda step, _: pruning.at(step),
        after_epoch=lambda epoch, loss: pruning.check(),
        beside=pruning,
        checkpoint=checkpoint,
        progress=prefixed(progress, "prune and retrain"),
    )
    if result.averaged is not None:  # of the dense weights; its masks are those of the last step
        model.load_state_dict(result.averaged.state_dict())
        pruning.check()
    return pruning.finish_()
