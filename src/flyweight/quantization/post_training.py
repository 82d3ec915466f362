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
from flyweight.quantization.divergence import OutputDivergence
from flyweight.quantization.layer_rounding import LayerRounding
from flyweight.quantization.post_training_config import PostTrainingConfig
from flyweight.quantization.sensitivity import (
    fisher_sensitivities,
    measured_sensitivities,
    round_within_loss,
)

__all__ = ["quantize_post_training"]

_BIAS_EXAMPLES = 1024  # at most; differences of outputs vary far less than outputs
_PART = 64  # examples that the model runs on at a time


def quantize_post_training(
    model: nn.Module,
    data: Batches,
    config: PostTrainingConfig | None = None,
    *,
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
    layer, and one run of up to 1,024 examples for each layer with a bias; less with ``gptq=False``
    or ``measured=False``. Where the loss of all layers together is out of
    proportion to the loss per bit, all weights are rounded again at half the steps, up to eight
    times; a warning tells if it still is. Memory: up to 2 GiB beside the model, its outputs and
    activations. Layers of more than 8,192 inputs are rounded without GPTQ.

    Args:
        model: any module; it is not changed, and may be frozen.
        data: calibration batches, some thousands of examples, augmented as in training.
        config: how to quantize.
        progress: called with a phase, how many of its layers are done, and how many there are.

    Returns:
        A new module in evaluation mode with quantized weights, on the device of ``model``; and
        the symbols and levels of these by name, on the CPU.

    Raises:
        ModelError: the model cannot be quantized, no weight is selected, or its outputs depend on
            none of them or are not finite.
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
    found = _quantized(student, weights, parts, config, progress)
    for name, tensor in found.items():
        weights[name].data.copy_(tensor.dequantize())
    reestimate_batch_norms_(student, batches, drift=drift)
    correct_biases_(student, model, take_examples(batches, _BIAS_EXAMPLES))
    for parameter, original in zip(student.parameters(), model.parameters(), strict=True):
        parameter.requires_grad_(original.requires_grad)
    return student, {name: _on_cpu(tensor) for name, tensor in found.items()}


def _quantized(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    batches: Sequence[Batch],
    config: PostTrainingConfig,
    progress: Progress | None,
) -> dict[str, CompressedTensor]:
    """Symbols and levels of the weights that outputs depend on; the model is not changed."""
    divergence = OutputDivergence(model, batches)
    weights = {name: weight for name, weight in weights.items() if weight.numel()}
    if weights:
        weights = reached_weights(model, weights, batches, loss=divergence.pseudo_loss())
    if not weights:
        raise ModelError(
            "the outputs of the model depend on none of the selected weights, so nothing tells how "
            "to quantize them; include others"
        )

    def done(phase: str) -> Callable[[int], None]:
        if progress is None:
            return lambda number: None
        progress(phase, 0, len(weights))
        return lambda number: progress(phase, number, len(weights))

    measuring = "measure the sensitivity of layers"
    done(measuring)
    sensitivities = fisher_sensitivities(model, weights, batches, divergence)
    rounding = LayerRounding(model, weights, batches, second_order=config.gptq)
    phase = "round weights (GPTQ)" if config.gptq else "round weights"
    if config.measured:
        sensitivities = measured_sensitivities(
            model,
            rounding,
            sensitivities,
            config.loss_per_bit,
            batches,
            divergence,
            rounded=rounding.round(sensitivities, config.loss_per_bit, done(phase)),
            done=done(measuring),
        )
    return round_within_loss(
        model,
        rounding,
        sensitivities,
        config.loss_per_bit,
        batches,
        divergence,
        done=done(phase),
    )


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
