"""Few values for the weights that are left, while a network trains, in our loop or in yours."""

from __future__ import annotations

import dataclasses
import operator
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from flyweight._config import config_digest
from flyweight.compressed import CompressedTensor, rounded
from flyweight.errors import CheckpointError, FlyweightError, ModelError
from flyweight.modules import attach_, check_plain, dense_weight, detach_, first_revived
from flyweight.modules import matching_parameters, weights_named
from flyweight.modules.checks import check_float
from flyweight.processes import of_first_process
from flyweight.pruning import MaskedWeight, fisher_information
from flyweight.quantization.config import QuantizationConfig
from flyweight.quantization.fixed_point import FixedPoint
from flyweight.quantization.fixed_point_weight import BinaryWeight, FixedPointWeight
from flyweight.quantization.kmeans_weight import KMeansWeight
from flyweight.quantization.learned_step_weight import LearnedStepWeight, TernaryWeight
from flyweight.quantization.weight_sharing import quantize_kmeans

__all__ = ["Quantization"]

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]
_LEAST_IMPORTANCE = 1e-6  # of the mean
QuantizedWeight = KMeansWeight | FixedPointWeight | LearnedStepWeight | TernaryWeight | BinaryWeight


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
        batches: gives calibration batches (inputs, targets), where the recipe weighs errors.
        seed: of k-means, where its start is drawn.

    Raises ModelError, which names the tensor, where a weight cannot be quantised so, the model
    lacks it, or another stage is not over, and where a glob of what the recipe keeps matches
    nothing.

    Example:
        >>> model, steps = nn.Linear(30, 20), 4
        >>> quantization = Quantization(model, ["weight"], QuantizationConfig(bits=2), steps=steps)
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
        recipe: QuantizationConfig,
        *,
        steps: int,
        batches: Batches | None = None,
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
        self._names = tuple(name for name, weight in weights.items() if weight not in left)
        self._bits = recipe.bits_of({name: weights[name].numel() for name in self._names})
        self._extra = recipe.extra_bits(0, steps)
        importance = self._measured(batches) if recipe.importance == "fisher" else {}
        self.quantized = {name: self._start(name, importance.get(name)) for name in self._names}
        kept = [name for name in weights if name not in self.quantized]
        masked = {name: MaskedWeight(self._masks[name].clone()) for name in kept}
        self._attached = {**self.quantized, **masked}
        attach_(model, self._attached)

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The dense weights that the optimiser trains, by name, where they are now."""
        return {name: dense_weight(self.model, name) for name in self._names}

    def bits(self, name: str) -> int:
        """Bits of a tensor now."""
        return min(8, self._bits[name] + self._extra)

    def _start(self, name: str, importance: Tensor | None) -> QuantizedWeight:
        weight, mask = dense_weight(self.model, name), self._masks[name].clone()
        scheme = self.recipe.scheme
        try:
            if scheme == "shared":
                symbols = self._share(name, weight, importance).symbols
                return KMeansWeight(symbols, 2 ** self.bits(name), importance)
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

    def _measured(self, batches: Batches | None) -> dict[str, Tensor]:
        """How much the error of each weight counts, 1 in the mean of those kept, and above 0."""
        if batches is None:
            raise ModelError("values weighed by 'fisher' information need calibration batches")
        weights = self.weights
        device = next(iter(weights.values())).device
        moved = ((inputs.to(device), targets.to(device)) for inputs, targets in batches())
        found = {}
        for name, bend in fisher_information(self.model, weights, moved).items():
            kept = self._masks[name].to(bend.device)
            mean = bend[kept].mean() if bool(kept.any()) else bend.new_zeros(())
            even = torch.ones_like(bend)
            ratio = (bend / mean).clamp(min=_LEAST_IMPORTANCE) if float(mean) > 0 else even
            found[name] = of_first_process(ratio)
        return found

    def _share(self, name: str, weight: Tensor, importance: Tensor | None) -> CompressedTensor:
        return quantize_kmeans(
            weight,
            bits=self.bits(name),
            init=self.recipe.init,
            mask=self._masks[name].to(weight.device),
            weights=importance,
            seed=self._seed,
        )

    def at(self, step: int) -> None:
        """Get ready for the step that comes next, counted from 0."""
        self.resume(step)
        recipe = self.recipe
        fewer = step > 0 and recipe.extra_bits(step - 1, self.steps) > self._extra
        reassign = step and step % recipe.interval == 0 and step < recipe.settle * self.steps
        if not (fewer or reassign):
            return
        for name, weight in self.weights.items():
            quantized = self.quantized[name]
            if isinstance(quantized, KMeansWeight):
                if fewer:
                    self._share_anew_(quantized, name, weight)
                else:
                    quantized.reassign_(weight)

    def _share_anew_(self, quantized: KMeansWeight, name: str, weight: Tensor) -> None:
        self._check_finite(name)
        quantized.symbols.copy_(self._share(name, weight, quantized.importance).symbols)

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
        return {"recipe": config_digest(self.recipe), "masks": masks}

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
        if state["recipe"] != config_digest(self.recipe):
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

    def _check_finite(self, name: str) -> None:
        seen = operator.attrgetter(name)(self.model)
        if not all(bool(torch.isfinite(w).all()) for w in (seen, dense_weight(self.model, name))):
            raise ModelError(
                f"tensor {name!r} holds NaN or infinity after {self.recipe.scheme!r} training; go "
                "back to a state from before, and train at a lower rate"
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
        one of them zero, move one by more than the digits of that type do, make two levels the
        same, or an offset wrong by more than half a step. A weight that was zero is zero, whatever
        the masks in the model have become. Where bits were still to fall, they do, with a warning.
        Raises ModelError where shared values have other zeros, and where a weight is not finite;
        the model is as it was then.
        """
        for name, module in self._attached.items():
            if not isinstance(module, KMeansWeight):
                module.mask.logical_and_(self._masks[name].to(module.mask.device))
        self.check()
        for name in self._names:
            self._check_finite(name)
        if self._extra:
            warnings.warn(
                f"the run ended {self._extra} bits above the {self.recipe.bits} that its recipe "
                f"ends with, which came untrained; make all of its {self.steps} steps",
                stacklevel=3,
            )
            self.resume(self.steps)
            for name, weight in self.weights.items():
                quantized = self.quantized[name]
                if isinstance(quantized, KMeansWeight):
                    self._share_anew_(quantized, name, weight)
        storage: torch.dtype = getattr(torch, self.recipe.storage)
        compressed: dict[str, CompressedTensor] = {}
        for name, weight in self.weights.items():
            compressed[name] = _stored(self.quantized[name].compressed(weight), storage)
        detach_(self.model, self._attached)
        for name, tensor in compressed.items():
            self.model.get_parameter(name).data.copy_(tensor.dequantize())
        return compressed


def _stored(tensor: CompressedTensor, storage: torch.dtype) -> CompressedTensor:
    """The tensor with its tables rounded to ``storage``, but for those that it cannot hold.

    An output that is all zeros has a scale and an offset of 0, which every type holds.
    """
    if tensor.scales is not None:
        used = (tensor.symbols > 0).flatten(1).any(1)
        tensor = dataclasses.replace(
            tensor,
            scales=tensor.scales * used,
            offsets=None if tensor.offsets is None else tensor.offsets * used,
        )
    digits = torch.finfo(storage).eps

    def close(table: Tensor, sizes: Tensor) -> Tensor:
        """Rounded, if no entry moves by more than the last digit of what is so large."""
        found = rounded(table, storage)
        lost = ((found == 0) & (table != 0)) | ((found - table).abs() > digits * sizes)
        return table.clone() if bool(lost.any()) else found

    largest = tensor.levels.abs().max() if tensor.levels.numel() else tensor.levels
    levels = close(tensor.levels, largest)
    if torch.unique(levels).numel() < torch.unique(tensor.levels).numel():
        levels = tensor.levels.clone()
    found = dataclasses.replace(tensor, levels=levels)
    if tensor.scales is None:
        return found
    found = dataclasses.replace(found, scales=close(tensor.scales, tensor.scales))
    if tensor.offsets is not None:
        offsets = rounded(tensor.offsets, storage)
        far = (offsets - tensor.offsets).abs() > tensor.scales / 2
        moved = bool((far & (tensor.scales > 0)).any())
        found = dataclasses.replace(found, offsets=tensor.offsets.clone() if moved else offsets)
    return found
