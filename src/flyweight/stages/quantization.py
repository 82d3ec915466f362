"""Few values for the weights that are left, while a network trains, in our loop or in yours."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flyweight.compressed import CompressedTensor
from flyweight.data import Split
from flyweight.errors import CheckpointError, FlyweightError, ModelError
from flyweight.int8 import check_float
from flyweight.parametrizations import (
    BinaryWeight,
    FixedPointWeight,
    LearnedStepWeight,
    MaskedWeight,
    SharedWeight,
    TernaryWeight,
    attach_,
    check_plain,
    detach_,
)
from flyweight.pruning import matching_parameters, weights_named
from flyweight.quantization import FixedPoint, share
from flyweight.recipes import SharingRecipe, recipe_digest
from flyweight.stages.finishing import rounded
from flyweight.stages.zeros import first_revived
from flyweight.training import Progress, fit_, prefixed

__all__ = ["Quantization", "quantize_"]

QuantizedWeight = SharedWeight | FixedPointWeight | LearnedStepWeight | TernaryWeight | BinaryWeight


class Quantization:
    """The quantised weights of a model in training; from the first step on its layers see them.

    Puts a parametrization on each weight named, so ``model`` is changed. Weights that are zero stay
    so, those of the layers that the recipe keeps as they are included; which they are is kept here
    too, since the masks in the model are a part of its state, which others load and average. `at`
    follows the schedule of the recipe; `finish_` takes the parametrizations off.

    Arguments:
        model: any module.
        names: of its weights to quantise.
        recipe: how.
        steps: of the whole run; with none, the bits are those of the end at once.
        seed: of k-means, where its start is drawn.

    Raises ModelError, which names the tensor, where a weight cannot be quantised so, the model
    lacks it, or another stage is not over, and where a glob of what the recipe keeps matches
    nothing.

    Example:
        >>> model, steps = nn.Linear(30, 20), 4
        >>> quantization = Quantization(model, ["weight"], SharingRecipe(bits=2), steps=steps)
        >>> for step in range(steps):
        ...     quantization.at(step)  # and a step of the optimiser
        >>> compressed = quantization.finish_()
        >>> len(compressed["weight"].levels), len(model.weight.unique())
        (4, 4)
    """

    def __init__(
        self,
        model: nn.Module,
        names: Iterable[str],
        recipe: SharingRecipe,
        *,
        steps: int,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.recipe = recipe
        self.steps = steps
        self._seed = seed
        check_float(model)
        weights = weights_named(model, names)
        check_plain(model, weights)
        self._masks = {name: weight.detach() != 0 for name, weight in weights.items()}
        left = matching_parameters(model, recipe.keep)
        self.weights = {name: weight for name, weight in weights.items() if weight not in left}
        self._bits = recipe.bits_of({n: weight.numel() for n, weight in self.weights.items()})
        self._extra = recipe.extra_bits(0, steps)
        self.quantized = {name: self._start(name) for name in self.weights}
        kept = weights.keys() - self.weights.keys()
        masked = {name: MaskedWeight(self._masks[name].clone()) for name in weights if name in kept}
        self._attached = {**self.quantized, **masked}
        attach_(model, self._attached)

    def bits(self, name: str) -> int:
        """Bits of a tensor now."""
        return min(8, self._bits[name] + self._extra)

    def _start(self, name: str) -> QuantizedWeight:
        weight, mask, scheme = self.weights[name], self._masks[name].clone(), self.recipe.scheme
        try:
            if scheme == "shared":
                start = self._share(name)
                return SharedWeight(start.symbols, start.levels.numel())
            if scheme == "learned-step":
                channels = self.recipe.per_channel
                return LearnedStepWeight(weight, mask, bits=self.bits(name), per_channel=channels)
            if scheme == "ternary":
                return TernaryWeight(weight, mask, threshold=self.recipe.threshold)
            if scheme == "binary":
                return BinaryWeight(mask, per_channel=self.recipe.per_channel)
            wanted = FixedPoint(
                self.bits(name),
                scheme,
                per_channel=self.recipe.per_channel,
                power_of_two=self.recipe.power_of_two,
                zero_level=self.recipe.zero_level,
            )
            last = dataclasses.replace(wanted, bits=self._bits[name])
            last.compressed(weight, mask)  # refuses before training what it would refuse after
            return FixedPointWeight(mask, wanted)
        except FlyweightError as error:
            raise type(error)(f"tensor {name!r}: {error}") from error

    def _share(self, name: str) -> CompressedTensor:
        return share(
            self.weights[name],
            bits=self.bits(name),
            init=self.recipe.init,
            mask=self._masks[name].to(self.weights[name].device),
            seed=self._seed,
        )

    def at(self, step: int) -> None:
        """Get ready for the step that comes next, counted from 0."""
        self.resume(step)
        recipe = self.recipe
        fewer = step > 0 and recipe.extra_bits(step - 1, self.steps) > self._extra
        reassign = step and step % recipe.interval == 0 and step < recipe.settle * self.steps
        for name, weight in self.weights.items():
            quantized = self.quantized[name]
            if isinstance(quantized, SharedWeight):
                if fewer:
                    quantized.symbols.copy_(self._share(name).symbols)
                elif reassign:
                    quantized.reassign_(weight)

    def resume(self, step: int) -> None:
        """Set the bits of a step before which `at` was called already."""
        self._extra = self.recipe.extra_bits(step, self.steps)
        for name, quantized in self.quantized.items():
            if isinstance(quantized, FixedPointWeight | LearnedStepWeight):
                quantized.set_bits_(self.bits(name))

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes: where no zeros are, and what tells the recipe from others.

        The values, and which weight has which, are a part of the state of the model.
        """
        masks = {name: mask.clone() for name, mask in self._masks.items()}
        return {"recipe": recipe_digest(self.recipe), "masks": masks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Check that a state is of such a run; what there is to load, the state of the model has.

        Raises CheckpointError where it is of another model or recipe, or of a model with other
        zeros.
        """
        masks = state.get("masks") if "recipe" in state else None
        if not isinstance(masks, Mapping):
            raise CheckpointError(
                "this is not the state of a quantisation, which has masks and a recipe; give what "
                "state_dict() returned"
            )
        if state["recipe"] != recipe_digest(self.recipe):
            raise CheckpointError(
                "this state is of a run with another recipe; prepare the model with that one"
            )
        alike = masks.keys() == self._masks.keys() and all(
            isinstance(masks[name], Tensor) and torch.equal(masks[name].to(mask), mask)
            for name, mask in self._masks.items()
        )
        if not alike:
            raise CheckpointError(
                "this state is of another model, or of one with other zeros; prepare the one that "
                "it belongs to"
            )

    def check(self) -> None:
        """Raise ModelError where a layer sees a value in the place of a weight that was zero."""
        if name := first_revived(self.model, self._masks):
            raise ModelError(
                f"tensor {name!r} lost zeros while its values were trained; load the state "
                "that belongs to this model, or begin again"
            )

    def finish_(self) -> dict[str, CompressedTensor]:
        """Leave what the layers see in plain weights; return it as symbols and levels.

        Levels, scales and offsets are rounded to what the recipe stores, unless that would make
        one of them zero, two levels the same, or an offset wrong by more than half a step. A weight
        that was zero is zero, whatever the masks in the model have become. Raises ModelError where
        shared values have other zeros.
        """
        for name, module in self._attached.items():
            if not isinstance(module, SharedWeight):
                module.mask.logical_and_(self._masks[name].to(module.mask.device))
        storage: torch.dtype = getattr(torch, self.recipe.storage)
        compressed: dict[str, CompressedTensor] = {}
        for name, weight in self.weights.items():
            compressed[name] = _stored(self.quantized[name].compressed(weight), storage)
        detach_(self.model, self._attached)
        for name, tensor in compressed.items():
            self.model.get_parameter(name).data.copy_(tensor.dequantize())
        self.check()
        return compressed


def _stored(tensor: CompressedTensor, storage: torch.dtype) -> CompressedTensor:
    """The tensor with its tables rounded to ``storage``, but for those that it cannot hold."""

    def nonzero(table: Tensor) -> Tensor:
        found = rounded(table, storage)
        return table.clone() if bool(((found == 0) & (table != 0)).any()) else found

    found = tensor.with_tables(nonzero)
    if torch.unique(found.levels).numel() < torch.unique(tensor.levels).numel():
        found = dataclasses.replace(found, levels=tensor.levels.clone())
    if tensor.offsets is not None and tensor.scales is not None and found.offsets is not None:
        moved = (found.offsets - tensor.offsets).abs() > tensor.scales / 2
        if bool((moved & (tensor.scales > 0)).any()):
            found = dataclasses.replace(found, offsets=tensor.offsets.clone())
    return found


def quantize_(
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
    """Let the non-zero weights named take few values, and train these. Changes ``model``.

    Arguments:
        model: takes images N×3×H×W, gives logits N×K; on the device of ``data``.
        names: of its weights to quantise.
        recipe: how, and how it trains.
        data: training images and their labels.
        seed: of the order of the images, and of k-means where its start is drawn.
        teacher: gives the soft labels where the recipe distils.
        checkpoint: file that holds the state after each epoch; a run that was stopped goes on.
        progress: told how far the training is.

    Returns symbols and levels by name. Raises ModelError as `Quantization` does, and at the end of
    an epoch in which a zero was lost.

    Example:
        >>> from flyweight.training import TrainingConfig
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
        >>> data = Split(torch.zeros(10, 3, 32, 32, dtype=torch.uint8), torch.arange(10))
        >>> recipe = SharingRecipe(bits=2, training=TrainingConfig(epochs=0, ema_decay=0.0))
        >>> len(quantize_(model, ("1.weight",), recipe, data, seed=0)["1.weight"].levels)
        4
    """
    per_epoch = max(1, len(data.labels) // recipe.training.batch_size)
    steps = recipe.training.epochs * per_epoch
    quantization = Quantization(model, names, recipe, steps=steps, seed=seed)
    result = fit_(
        model,
        data,
        recipe.training,
        seed=seed,
        teacher=teacher,
        before_step=lambda step, _: quantization.at(step),
        after_epoch=lambda epoch, loss: quantization.check(),
        checkpoint=checkpoint,
        progress=prefixed(progress, "train the shared values"),
    )
    if result.averaged is not None:  # of the dense weights; its symbols are those of the last step
        model.load_state_dict(result.averaged.state_dict())
    return quantization.finish_()
