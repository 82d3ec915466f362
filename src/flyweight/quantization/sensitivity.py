"""Sensitivity of each layer: how much the outputs change by an error of its weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from flyweight.batch_norm import batch_norm_drift, reestimate_batch_norms_
from flyweight.batches import Batch
from flyweight.compressed import CompressedTensor
from flyweight.errors import ModelError
from flyweight.pruning import fisher_information
from flyweight.quantization.divergence import OutputDivergence

__all__ = ["fisher_sensitivities", "measured_sensitivities"]

# Least sensitivity, relative to the largest: by Fisher information, and as measured.
_LEAST, _LEAST_MEASURED = 1e-3, 1e-6


def fisher_sensitivities(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    batches: Sequence[Batch],
    divergence: OutputDivergence,
) -> dict[str, float]:
    """Estimate sensitivities as half the mean Fisher information of each weight tensor.

    Args:
        model: holds the weights; it is not changed.
        weights: parameters that the outputs depend on, by name.
        batches: calibration batches.
        divergence: of the outputs of the model.
    """
    fisher = fisher_information(model, weights, batches, loss=divergence.pseudo_loss())
    return _floored({name: float(value.mean()) / 2 for name, value in fisher.items()}, _LEAST)


def measured_sensitivities(
    model: nn.Module,
    tensors: Mapping[str, CompressedTensor],
    errors: Mapping[str, float],
    batches: Sequence[Batch],
    divergence: OutputDivergence,
    estimates: Mapping[str, float],
    *,
    done: Callable[[int], None] = lambda number: None,
) -> dict[str, float]:
    """Measure sensitivities by the outputs of the model with one layer at a time quantized.

    Args:
        model: before quantization; it is not changed.
        tensors: the quantized weights, by name.
        errors: squared error of each.
        batches: calibration batches.
        divergence: of the outputs of the model on them.
        estimates: sensitivities that are returned where a tensor has no error.
        done: called with the number of layers measured.

    Raises:
        ModelError: a divergence is not finite.
    """
    losses = _losses_alone(model, tensors, batches, divergence, done)
    measured = {n: losses[n] / errors[n] if errors[n] else estimates[n] for n in tensors}
    return _floored(measured, _LEAST_MEASURED)


def _floored(sensitivities: dict[str, float], share: float) -> dict[str, float]:
    least = share * max(sensitivities.values()) or 1.0
    return {name: max(value, least) for name, value in sensitivities.items()}


@torch.no_grad()
def _losses_alone(
    model: nn.Module,
    tensors: Mapping[str, CompressedTensor],
    batches: Sequence[Batch],
    divergence: OutputDivergence,
    done: Callable[[int], None],
) -> dict[str, float]:
    """Divergence of the outputs with one tensor alone quantized, of each tensor."""
    drift = batch_norm_drift(model, batches)
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
    losses = {}
    for number, (name, tensor) in enumerate(tensors.items(), 1):
        weight = model.get_parameter(name)
        before = weight.detach().clone()
        try:
            weight.data.copy_(tensor.dequantize())
            reestimate_batch_norms_(model, batches, drift=drift)
            loss = divergence.of(model)
            if not math.isfinite(loss):
                raise ModelError(
                    f"with tensor {name!r} alone quantized the outputs have a divergence of {loss} "
                    "from those before; let the model give finite outputs, -1e4 in place of -inf "
                    "say"
                )
            losses[name] = max(0.0, loss)  # below 0 by rounding alone
        finally:
            weight.data.copy_(before)
            for key, buffer in model.named_buffers():
                buffer.copy_(statistics[key])
        done(number)
    return losses
