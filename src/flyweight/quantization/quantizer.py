"""Quantization-aware training: parametrizations that follow a schedule while a model trains."""

from __future__ import annotations

import copy
import dataclasses
import operator
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from flyweight._config import config_digest
from flyweight.batch_norm import check_not_training_folded, folded_batch_norms
from flyweight.batches import Batches, Loss, default_loss, take_examples, to_device
from flyweight.compressed import CompressedModel, CompressedTensor
from flyweight.errors import CheckpointError, FlyweightError, ModelError
from flyweight.modules import (
    WeightLayout,
    WeightParametrization,
    attach_,
    check_config,
    check_model,
    check_plain,
    check_steps,
    dense_weight,
    detach_,
    first_revived,
    masks_of_zeros,
    matching,
    overrides_by_name,
    select_weights,
)
from flyweight.modules.optimizer_check import OptimizerCheck
from flyweight.processes import of_first_process
from flyweight.pruning import MaskedWeight, fisher_information
from flyweight.quantization.config import QuantizationConfig
from flyweight.quantization.file_storage import FileStorage, FloatDtype
from flyweight.quantization.fixed_point_weight import FixedPointWeight
from flyweight.quantization.kmeans_weight import KMeansWeight
from flyweight.quantization.learned_step_weight import LearnedStepWeight
from flyweight.quantization.level_storage import round_tables
from flyweight.quantization.quantized_weight import QuantizedWeight, WeightSettings
from flyweight.quantization.rate_training import RateTraining
from flyweight.quantization.report import QuantizationReport, quantization_row

__all__ = ["Quantizer"]

_LEAST_IMPORTANCE = 1e-6  # of the mean


class Quantizer:
    """Quantize the weights of a model while it trains, in any training loop.

    Makes a copy of the model whose layers see quantized weights. Train `model` with an optimizer
    over its parameters, call `step` after each optimizer step, and `finalize` at the end. Weights
    that are zero stay zero, those of excluded layers included: prune first.

    Args:
        model: any module; it is not changed.
        config: how to quantize.
        steps: number of optimizer steps that will be made; 0 quantizes at once, with the bits of
            the end.
        data: batches to measure Fisher information on, where ``importance`` is "fisher".
        loss: loss of which the Fisher information is measured.
        seed: of k-means, where centroids are drawn.
        storage: keyword arguments of `finalize`, which takes them from here if it is given none.
            "rate" needs them from the start, since they decide the bytes of what is not quantized,
            and trains these floats as they are stored.

    Attributes:
        model: the prepared copy; on any device, and wrapped as the training loop needs it.
        config: how to quantize.
        number: number of steps made.

    Raises:
        ModelError: a weight cannot be quantized as asked, no weight is selected, a pattern matches
            nothing, or another stage is not finalized.

    Example:
        >>> config = QuantizationConfig(method="learned-step", bits=3)
        >>> quantizer = Quantizer(nn.Linear(8, 4), config, steps=10)
        >>> optimizer = torch.optim.SGD(quantizer.model.parameters(), 0.1)
        >>> for _ in range(10):
        ...     quantizer.model(torch.randn(2, 8)).square().mean().backward()
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        ...     quantizer.step()
        >>> compressed = quantizer.finalize()
        >>> len(compressed["weight"].levels) <= 8
        True

    Sources: Jacob et al. 2018, "Quantization and training of neural networks for efficient
    integer-arithmetic-only inference", §3 (training with quantized weights); for each method see
    `QuantizationConfig`.
    """

    def __init__(
        self,
        model: nn.Module,
        config: QuantizationConfig | None = None,
        *,
        steps: int,
        data: Batches | None = None,
        loss: Loss = default_loss,
        seed: int = 0,
        storage: Mapping[str, Any] | None = None,
    ) -> None:
        steps = check_steps(steps)
        config = QuantizationConfig() if config is None else config
        check_config(config, QuantizationConfig)
        check_model(model)
        self.config = config
        self.steps = steps
        self.number = 0
        self._storage = FileStorage.from_arguments(storage)
        self.model = copy.deepcopy(model)
        self._finalized: QuantizationReport | None = None
        self._folded = folded_batch_norms(self.model)
        weights = select_weights(self.model, include=config.include, exclude=config.exclude)
        check_plain(self.model, weights)
        self._names = tuple(weights)
        sizes = {name: weight.numel() for name, weight in weights.items()}
        overrides = overrides_by_name(self.model, weights, config.bits_overrides)
        self._settings = {
            name: WeightSettings(
                config,
                int(matching(name, overrides, bits)),
                # Scales belong to slices along the first axis; in a transposed layer, to inputs.
                config.per_channel and not WeightLayout.at(self.model, name).transposed,
                seed,
            )
            for name, bits in config.bits_of(sizes).items()
        }
        self._extra = config.extra_bits(0, steps)
        self._masks = {name: weight.detach() != 0 for name, weight in weights.items()}
        if steps:
            _warn_of_zeros(self._masks)
        importance = {} if config.importance == "equal" else self._importance(data, loss)
        self._rate: RateTraining | None = None
        if config.method == "rate":
            given = overrides_by_name(self.model, weights, config.steps)
            self._rate = RateTraining(
                self.model,
                weights,
                self._masks,
                config,
                {name: settings.bits for name, settings in self._settings.items()},
                {n: step for n in weights if (step := matching(n, given, 0.0))},
                steps,
                self._storage,
            )
            self._quantized: dict[str, QuantizedWeight] = {**self._rate.quantized}
        else:
            self._quantized = {
                name: self._parametrized(name, importance.get(name)) for name in weights
            }
        held = masks_of_zeros(self.model, without=weights)
        self._masks |= held
        masked = {name: MaskedWeight(mask.clone()) for name, mask in held.items()}
        floats = {} if self._rate is None else self._rate.floats(without={*weights, *held})
        self._attached: dict[str, WeightParametrization] = {**self._quantized, **masked, **floats}
        attach_(self.model, self._attached)
        self._optimizer_check = OptimizerCheck(self.model, "quantizer")

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The float weights that the optimizer trains, by name."""
        return {name: dense_weight(self.model, name) for name in self._names}

    @property
    def parametrizations(self) -> Mapping[str, nn.Module]:
        """The parametrization of each quantized weight, by name."""
        return dict(self._quantized)

    def bits(self, name: str) -> int:
        """Return the bits that a tensor has at this step."""
        return min(8, self._settings[name].bits + self._extra)

    def _parametrized(self, name: str, importance: Tensor | None) -> QuantizedWeight:
        weight, mask = dense_weight(self.model, name), self._masks[name].clone()
        try:
            return self._settings[name].parametrization(
                weight, mask, self.bits(name), importance=importance
            )
        except FlyweightError as error:
            raise type(error)(f"tensor {name!r}: {error}") from error

    def _importance(self, data: Batches | None, loss: Loss) -> dict[str, Tensor]:
        """Fisher information, divided by its mean over the nonzero weights, and above 0."""
        if data is None:
            raise ModelError(
                "the importance 'fisher' needs calibration data; give data=, or set "
                "importance='equal'"
            )
        weights = self.weights
        device = next(iter(weights.values())).device
        examples = take_examples(data, self.config.calibration_examples)
        batches = (to_device(batch, device) for batch in examples)
        found = {}
        for name, fisher in fisher_information(self.model, weights, batches, loss=loss).items():
            mask = self._masks[name].to(fisher.device)
            mean = fisher[mask].mean() if bool(mask.any()) else fisher.new_zeros(())
            even = torch.ones_like(fisher)
            ratio = (fisher / mean).clamp(min=_LEAST_IMPORTANCE) if float(mean) > 0 else even
            found[name] = of_first_process(ratio)
        return found

    def _check_open(self) -> None:
        if self._finalized is not None:
            raise ModelError("this quantizer is finalized; make a new one of the model")

    def step(self) -> None:
        """Follow the schedule; call it after each step of the optimizer.

        Bits fall, and k-means assigns weights to centroids again, where the configuration says so.

        Raises:
            ModelError: batch normalization that is folded, as in a model read from a file, trains.
        """
        self._check_open()
        check_not_training_folded(self._folded)
        self._optimizer_check.compare()
        self.number += 1
        self._set_bits_(self.number)
        self._follow_clusters_(self.number)
        if self._rate is not None:
            self._rate.step_(self.number, self.weights)
        self._optimizer_check.remember()

    def penalty(self) -> Tensor | None:
        """Return the term to add to the loss of a batch, a scalar: the bits times the loss per bit.

        None for other methods than "rate", and once the codes are kept.
        """
        return None if self._rate is None else self._rate.penalty(self.weights)

    def _follow_clusters_(self, step: int) -> None:
        config = self.config
        fewer = config.extra_bits(step - 1, self.steps) > self._extra
        until = config.assignment_until * self.steps
        if not (fewer or (step % config.assignment_interval == 0 and step < until)):
            return
        for name, weight in self.weights.items():
            quantized = self._quantized[name]
            if isinstance(quantized, KMeansWeight):
                if fewer:
                    self._cluster_again_(quantized, name, weight)
                else:
                    quantized.reassign_(weight)

    def _cluster_again_(self, quantized: KMeansWeight, name: str, weight: Tensor) -> None:
        self._check_finite(name)
        found = self._settings[name].kmeans(
            weight, self._masks[name], self.bits(name), importance=quantized.importance
        )
        quantized.symbols.copy_(found.symbols)

    def _set_bits_(self, step: int) -> None:
        """Set the bits of a step."""
        self._extra = self.config.extra_bits(step, self.steps)
        for name, quantized in self._quantized.items():
            if isinstance(quantized, FixedPointWeight | LearnedStepWeight):
                quantized.set_bits_(self.bits(name))

    def state_dict(self) -> dict[str, Any]:
        """Return the state: save it with those of the model and the optimizer.

        Levels and symbols are part of the state of the model.
        """
        self._check_open()
        masks = {name: mask.clone() for name, mask in self._masks.items()}
        state = {"step": self.number, "config": config_digest(self.config), "masks": masks}
        return state if self._rate is None else {**state, "rate": self._rate.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state of `state_dict`; load that of the model before.

        Raises:
            CheckpointError: the state is of another model or configuration, or no state.
        """
        self._check_open()
        known: Any = state if isinstance(state, dict) else {}
        step = known.get("step")
        masks = known.get("masks") if "config" in known else None
        if not isinstance(step, int) or step < 0 or not isinstance(masks, Mapping):
            raise CheckpointError(
                "this is not the state of a Quantizer; give what its state_dict() returned"
            )
        if state["config"] != config_digest(self.config):
            raise CheckpointError(
                "this state is of another configuration; make the quantizer with that one"
            )
        same = masks.keys() == self._masks.keys() and all(
            isinstance(masks[name], Tensor) and torch.equal(masks[name].to(mask), mask)
            for name, mask in self._masks.items()
        )
        if not same:
            raise CheckpointError(
                "this state is of another model, or of one with other zeros; make the quantizer of "
                "that model"
            )
        if self._rate is not None:
            self._rate.load_state_dict(state.get("rate"))
        self.number = step
        self._set_bits_(step)

    def _check_finite(self, name: str) -> None:
        seen = operator.attrgetter(name)(self.model)
        if not all(bool(torch.isfinite(w).all()) for w in (seen, dense_weight(self.model, name))):
            raise ModelError(
                f"tensor {name!r} holds NaN or infinity after training with the method "
                f"{self.config.method!r}; load an earlier state, and lower the learning rate"
            )

    def check(self) -> None:
        """Raise ModelError if a layer sees a value where the weight was zero."""
        self._check_open()
        held = {} if self._rate is None else self._rate.masks()
        if name := first_revived(self.model, self._masks | held):
            raise ModelError(
                f"tensor {name!r} lost zeros in training; load the state that belongs to this "
                "model, or start again"
            )

    def report(self) -> QuantizationReport:
        """Return bits, levels and error of each quantized tensor as it is now.

        After `finalize`, as it is in the compressed model.
        """
        if self._finalized is not None:
            return self._finalized
        weights = self.weights
        return self._report_of(
            {name: self._quantized[name].compressed(weight) for name, weight in weights.items()}
        )

    def _report_of(self, tensors: Mapping[str, CompressedTensor]) -> QuantizationReport:
        weights = self.weights
        rows = [quantization_row(name, weights[name], tensors[name]) for name in weights]
        return QuantizationReport(self.config.method, tuple(rows))

    def finalize(
        self,
        *,
        fold_batch_norm: bool | None = None,
        float_dtype: FloatDtype | None = None,
        float_mantissa_bits: int | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> CompressedModel:
        """Return the compressed model; `model` is left with plain quantized weights.

        Levels, scales and offsets are rounded to ``level_dtype``, except where that would lose
        more than its precision (`round_tables`). If the bits have not fallen to their final number
        yet, they do so now, with a warning.

        Batch normalization is folded in the compressed model, so that its outputs equal those of
        `model` up to rounding, and are bit for bit those of the module that is loaded from it.

        Args:
            fold_batch_norm: store the effective scale and bias of a batch normalization instead of
                its four vectors; default: yes.
            float_dtype: type that the other float32 tensors are rounded to: "bfloat16", "float16"
                or "float32", the default.
            float_mantissa_bits: bits of their mantissa that are kept; 0, the default, for all that
                the type has.
            metadata: strings for the file.

        Raises:
            ModelError: a zero was lost, or a weight is not finite; nothing is changed then.
        """
        given: dict[str, Any] = {
            "fold_batch_norm": fold_batch_norm,
            "float_dtype": float_dtype,
            "float_mantissa_bits": float_mantissa_bits,
            "metadata": metadata,
        }
        changes = {key: value for key, value in given.items() if value is not None}
        storage = dataclasses.replace(self._storage, **changes)
        tensors = self._finalize_()
        return storage.compress(copy.deepcopy(self.model), tensors)

    def _finalize_(self) -> dict[str, CompressedTensor]:
        """Leave plain weights in the model; return their symbols and levels."""
        self._check_open()
        for name, module in self._attached.items():
            mask = getattr(module, "mask", None)
            if isinstance(mask, Tensor):  # whatever the masks in the model have become
                mask.logical_and_(self._masks[name].to(mask.device))
        self.check()
        for name in self._names:
            self._check_finite(name)
        if self._extra:
            warnings.warn(
                f"training ended with {self._extra} bits more than the final {self.config.bits}, "
                f"so the final levels are untrained; make all {self.steps} steps",
                stacklevel=3,
            )
            self._set_bits_(self.steps)
            for name, weight in self.weights.items():
                quantized = self._quantized[name]
                if isinstance(quantized, KMeansWeight):
                    self._cluster_again_(quantized, name, weight)
        if self._rate is not None:
            self._rate.finish_(self.weights)
        dtype: torch.dtype = getattr(torch, self.config.level_dtype)
        found = {
            name: round_tables(self._quantized[name].compressed(weight), dtype)
            for name, weight in self.weights.items()
        }
        report = self._report_of(found)
        detach_(self.model, self._attached)
        if self._rate is not None:
            self._rate.release_()
        self._finalized = report
        for name, tensor in found.items():
            self.model.get_parameter(name).data.copy_(tensor.dequantize())
        return found


def _warn_of_zeros(masks: Mapping[str, Tensor]) -> None:
    for name, mask in masks.items():
        if mask.numel() and not bool(mask.any()):
            warnings.warn(
                f"tensor {name!r} holds nothing but zeros, which stay zeros and do not train; "
                "exclude it if it is to be trained",
                stacklevel=3,
            )
