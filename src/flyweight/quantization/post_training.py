"""Post-training quantization: one loss per bit for all layers, from calibration data."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flyweight._progress import Progress
from flyweight.batch_norm import batch_norm_drift, reestimate_batch_norms_, unfold_batch_norms_
from flyweight.batches import (
    Batch,
    Batches,
    check_batch,
    examples_in,
    slice_batch,
    take_examples,
    to_device,
)
from flyweight.compressed import CompressedTensor
from flyweight.errors import DataError, ModelError
from flyweight.modules import check_model, check_plain, select_weights
from flyweight.pruning import reached_weights
from flyweight.quantization.bias_correction import correct_biases_
from flyweight.quantization.byte_search import ByteSearch
from flyweight.quantization.divergence import OutputDivergence
from flyweight.quantization.file_storage import FileStorage
from flyweight.quantization.layer_rounding import LayerRounding
from flyweight.quantization.post_training_config import PostTrainingConfig
from flyweight.quantization.sensitivity import (
    fisher_sensitivities,
    measured_sensitivities,
    round_within_loss,
)

__all__ = ["quantize_post_training"]

_BIAS_EXAMPLES = 1024  # at most; differences of outputs vary far less than outputs
_CORRECTIONS = 4  # of the goal of the search
_FEW_BYTES = 30
_MEASURING = "measure the sensitivity of layers"
_MOST_MISSING = 0.01  # of the bytes asked for
_PART = 64  # examples that the model runs on at a time


def quantize_post_training(
    model: nn.Module,
    data: Batches,
    config: PostTrainingConfig | None = None,
    *,
    storage: FileStorage | None = None,
    progress: Progress | None = None,
) -> tuple[nn.Module, dict[str, CompressedTensor]]:
    """Quantize the weights of a model without training, from calibration data without targets.

    Every bit of the file is worth the same loss in all layers: the step of each layer follows from
    that and from its sensitivity, which is how much the outputs of the model change by an error of
    its weights. Linear layers and convolutions of one and two dimensions are rounded by GPTQ with
    rate-distortion optimized levels, other weights (recurrent, embedding, transposed, attention)
    one by one. Then batch normalization is re-estimated and biases are corrected. Zeros stay zeros.
    Weights that no output depends on stay floats, such as those of a head for training only.

    Time: one backward run for each example that weights are chosen by, one run of all of these for
    each layer (two with batch normalization), about 25·rows·columns² operations of GPTQ for each
    layer, and up to five runs of 1,024 examples that correct biases; less with ``gptq=False``
    or ``measured=False``. Where the loss of all layers together is out of
    proportion to the loss per bit, all weights are rounded again at half the steps, up to eight
    times; a warning tells if it still is. Memory: up to 2 GiB beside the model, its outputs and
    activations. Layers of more than 8,192 inputs are rounded without GPTQ.

    Args:
        model: any module; it is not changed, and may be frozen.
        data: calibration batches, some thousands of examples, augmented as in training.
        config: how to quantize.
        storage: how the file stores the rest, whose bytes count for ``config.target_bytes``.
        progress: called with a phase, how many of its layers are done, and how many there are; or
            None where their number is not known.

    Returns:
        A new module in evaluation mode with quantized weights, on the device of ``model``; and
        the symbols and levels of these by name, on the CPU.

    Raises:
        ModelError: the model cannot be quantized, no weight is selected, its outputs depend on
            none of them or are not finite, or it cannot have the bytes asked for.
        DataError: there are no batches, or one is empty, not finite, or too small for batch
            normalization.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> batches = [torch.randn(64, 8) for _ in range(4)]
        >>> student, tensors = quantize_post_training(model, batches)
        >>> torch.equal(student[0].weight, tensors["0.weight"].dequantize())
        True

    Sources: Shoham & Gersho 1988 (one multiplier for all layers); Frantar et al. 2023, "GPTQ", §3
    (rounding); Nagel et al. 2019, §4.2 (corrections). The combination with Fisher information and
    measured divergence is flyweight's own.
    """
    config = config or PostTrainingConfig()
    check_model(model)
    student = copy.deepcopy(model).eval()
    for parameter in student.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    weights = select_weights(student, include=config.include, exclude=config.exclude)
    check_plain(student, weights)
    device = next(iter(weights.values())).device
    batches = _checked(data, config.calibration_examples, device)
    parts = _parts(batches, config.examples)
    unfold_batch_norms_(student, batches)
    drift = batch_norm_drift(student, batches)

    def finished(found: Mapping[str, CompressedTensor], module: nn.Module) -> nn.Module:
        for name, tensor in found.items():
            module.get_parameter(name).data.copy_(tensor.dequantize())
        reestimate_batch_norms_(module, batches, drift=drift)
        correct_biases_(module, model, take_examples(batches, _BIAS_EXAMPLES))
        for parameter, original in zip(module.parameters(), model.parameters(), strict=True):
            parameter.requires_grad_(original.requires_grad)
        return module

    task = _Task(student, weights, parts, config, progress)
    if config.target_bytes:
        student, found = task.within_bytes(storage or FileStorage(), finished)
    else:
        found = task.at_loss_per_bit()
        student = finished(found, student)
    return student, {name: _on_cpu(tensor) for name, tensor in found.items()}


class _Task:
    """Weights to quantize, and how much the outputs suffer; the model is not changed."""

    def __init__(
        self,
        model: nn.Module,
        weights: Mapping[str, Tensor],
        batches: Sequence[Batch],
        config: PostTrainingConfig,
        progress: Progress | None,
    ) -> None:
        self.model, self.batches = model, batches
        self.config, self.progress = config, progress
        self.divergence = OutputDivergence(model, batches)
        weights = {name: weight for name, weight in weights.items() if weight.numel()}
        if weights:
            loss = self.divergence.pseudo_loss()
            weights = reached_weights(model, weights, batches, loss=loss)
        if not weights:
            raise ModelError(
                "the outputs of the model depend on none of the selected weights, so nothing tells "
                "how to quantize them; include others"
            )
        self.weights = weights
        self._done(_MEASURING)
        self.fisher = fisher_sensitivities(model, weights, batches, self.divergence)
        self.rounding = LayerRounding(model, weights, batches, second_order=config.gptq)
        self.phase = "round weights (GPTQ)" if config.gptq else "round weights"

    def _done(self, phase: str) -> Callable[[int], None]:
        progress = self.progress
        if progress is None:
            return lambda number: None
        progress(phase, 0, len(self.weights))
        return lambda number: progress(phase, number, len(self.weights))

    def at_loss_per_bit(self) -> dict[str, CompressedTensor]:
        """Quantize at the loss per bit of the configuration, or a lower one."""
        sensitivities, loss_per_bit = self.fisher, self.config.loss_per_bit
        if self.config.measured:
            rounded = self.rounding.round(sensitivities, loss_per_bit, self._done(self.phase))
            sensitivities = self._measured(loss_per_bit, rounded)
        return round_within_loss(
            self.model,
            self.rounding,
            sensitivities,
            loss_per_bit,
            self.batches,
            self.divergence,
            done=self._done(self.phase),
        )

    def _measured(
        self,
        loss_per_bit: float,
        rounded: tuple[Mapping[str, CompressedTensor], Mapping[str, float]],
    ) -> dict[str, float]:
        return measured_sensitivities(
            self.model,
            self.rounding,
            self.fisher,
            loss_per_bit,
            self.batches,
            self.divergence,
            rounded=rounded,
            done=self._done(_MEASURING),
        )

    def within_bytes(
        self,
        storage: FileStorage,
        finished: Callable[[Mapping[str, CompressedTensor], nn.Module], nn.Module],
    ) -> tuple[nn.Module, dict[str, CompressedTensor]]:
        """Return the model and its weights whose file has the bytes of the configuration.

        Bytes are first those with the floats of the model as it is; then the floats are corrected,
        all bytes are counted, and by as much as they differ the goal changes.
        """
        target = self.config.target_bytes
        module = copy.deepcopy(self.model)

        def file_bytes(found: Mapping[str, CompressedTensor]) -> int:
            for name, tensor in found.items():
                module.get_parameter(name).data.copy_(tensor.dequantize())
            return _file_bytes(storage, module, found)

        def tried(number: int) -> None:
            if self.progress is not None:
                self.progress(f"{self.phase} to {target:,} bytes", number, None)

        search = ByteSearch(self.rounding, self.weights, file_bytes, tried)
        sensitivities, loss_per_bit = self.fisher, self.config.loss_per_bit
        search.check(target, sensitivities)
        if self.config.measured:
            trial = search.near(target, sensitivities, loss_per_bit)
            loss_per_bit = trial.loss_per_bit
            sensitivities = self._measured(loss_per_bit, (trial.tensors, trial.errors))
        goal = target
        fitting: tuple[int, nn.Module, dict[str, CompressedTensor]] | None = None
        for _ in range(_CORRECTIONS):
            trial = search.within(goal, sensitivities, loss_per_bit)
            loss_per_bit = trial.loss_per_bit
            student = finished(trial.tensors, copy.deepcopy(self.model))
            size = _file_bytes(storage, student, trial.tensors)
            if size <= target and (fitting is None or size > fitting[0]):
                fitting = size, student, dict(trial.tensors)
            if target - max(_MOST_MISSING * target, _FEW_BYTES) <= size <= target:
                break
            goal = target + trial.size - size - (size > target)
        if fitting is None:
            raise ModelError(
                f"post-training quantization found no file of {target:,} bytes, only one of "
                f"{size:,}; choose a target that is a few bytes larger"
            )
        return fitting[1:]


def _file_bytes(
    storage: FileStorage, model: nn.Module, found: Mapping[str, CompressedTensor]
) -> int:
    """All bytes of the file; the model is not changed."""
    on_cpu = {name: _on_cpu(tensor) for name, tensor in found.items()}
    return len(storage.compress(copy.deepcopy(model).cpu(), on_cpu).to_bytes())


def _checked(data: Batches, examples: int, device: torch.device) -> list[Batch]:
    """The first examples of the data, on the device; DataError for bad batches among them."""
    if isinstance(data, Tensor | Mapping | str):
        raise DataError(f"data is a {type(data).__name__}; give a list of batches or a loader")

    def checked() -> Iterator[Batch]:
        for batch in data:
            check_batch(batch)
            yield to_device(batch, device)

    batches = take_examples(checked(), examples)
    if not batches:
        raise DataError("data is empty; give at least one batch")
    return batches


def _parts(batches: Sequence[Batch], examples: int) -> list[Batch]:
    """The first examples, in parts of up to 64 whose sizes differ by one at most.

    Batches that differ in shape, such as sequences of several lengths, are parted one by one.
    """
    taken = take_examples(batches, examples)
    with contextlib.suppress(_DifferentError):
        taken = [_joined(taken, [examples_in(batch) for batch in taken])]
    return [part for batch in taken for part in _even_parts(batch)]


def _even_parts(batch: Batch) -> Iterator[Batch]:
    parts = math.ceil(examples_in(batch) / _PART)
    size, larger = divmod(examples_in(batch), parts)
    start = 0
    for number in range(parts):
        end = start + size + (number < larger)
        yield slice_batch(batch, slice(start, end))
        start = end


class _DifferentError(Exception):
    """Batches have no common form and shape."""


def _joined(values: Sequence[Any], counts: Sequence[int]) -> Any:
    """One batch of several, whose numbers of examples are ``counts``."""
    first = values[0]
    if len({type(value) for value in values}) > 1:
        raise _DifferentError
    if isinstance(first, Tensor):
        if all(v.ndim and len(v) == count for v, count in zip(values, counts, strict=True)):
            if len({(v.shape[1:], v.dtype) for v in values}) > 1:
                raise _DifferentError
            return torch.cat([*values])
        if not all(torch.equal(value, first) for value in values):
            raise _DifferentError
        return first
    if isinstance(first, Mapping):
        if any(value.keys() != first.keys() for value in values):
            raise _DifferentError
        return {key: _joined([value[key] for value in values], counts) for key in first}
    if isinstance(first, tuple | list):
        if any(len(value) != len(first) for value in values):
            raise _DifferentError
        parts = [_joined(some, counts) for some in zip(*values, strict=True)]
        if hasattr(first, "_fields"):  # a named tuple
            return type(first)(*parts)
        return type(first)(parts)
    if any(value != first for value in values):
        raise _DifferentError
    return first


def _on_cpu(tensor: CompressedTensor) -> CompressedTensor:
    return dataclasses.replace(tensor.with_tables(Tensor.cpu), symbols=tensor.symbols.cpu())
