"""Sensitivity of each layer: how much the outputs change by an error of its weights."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from flyweight.batch_norm import batch_norm_drift, reestimate_batch_norms_
from flyweight.batches import Batch
from flyweight.coding import entropy
from flyweight.compressed import CompressedTensor
from flyweight.errors import ModelError
from flyweight.pruning import fisher_information
from flyweight.quantization.divergence import OutputDivergence
from flyweight.quantization.layer_rounding import LayerRounding

__all__ = ["fisher_sensitivities", "measured_sensitivities", "round_within_loss"]

# Least sensitivity, relative to the largest: by Fisher information, and as measured.
_LEAST, _LEAST_MEASURED = 1e-3, 1e-6
_HALVINGS = 8  # of a step that destroys its layer
# Of all weights together: at high rate a weight costs λ/(2 ln 2) nats, so that more than a few λ a
# weight comes from sensitivities that are far too low, as where the model has no doubt at all.
_LOSS_PER_WEIGHT = 4  # times loss_per_bit
_LEAST_LOSS = 1e-3  # nats, which no metric sees


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
    rounding: LayerRounding,
    estimates: Mapping[str, float],
    loss_per_bit: float,
    batches: Sequence[Batch],
    divergence: OutputDivergence,
    *,
    rounded: tuple[Mapping[str, CompressedTensor], Mapping[str, float]],
    done: Callable[[int], None] = lambda number: None,
) -> dict[str, float]:
    """Measure sensitivities by the outputs of the model with one layer at a time quantized.

    The sensitivity is the divergence over the squared error of the layer, as long as the one is
    proportional to the other. A layer that is destroyed by its step gets the sensitivity whose
    step costs least among halves, quarters, … of it, loss and bits together.

    Args:
        model: before quantization; it is not changed.
        rounding: of its weights.
        estimates: sensitivities that they were rounded at.
        loss_per_bit: that they were rounded at.
        batches: calibration batches.
        divergence: of the outputs of the model on them.
        rounded: what `LayerRounding.round` returned.
        done: called with the number of layers measured.

    Raises:
        ModelError: a divergence is not finite.
    """
    loss_alone = _QuantizedLoss(model, batches, divergence)
    found: dict[str, float] = {}
    tensors, errors = rounded
    for name, tensor in tensors.items():
        loss = loss_alone.of({name: tensor})
        if loss <= divergence.saturation:
            found[name] = loss / errors[name] if errors[name] else estimates[name]
        else:
            found[name] = _cheapest_sensitivity(
                name, (tensor, loss), rounding, estimates[name], loss_per_bit, loss_alone
            )
        done(len(found))
    return _floored(found, _LEAST_MEASURED)


def round_within_loss(
    model: nn.Module,
    rounding: LayerRounding,
    sensitivities: Mapping[str, float],
    loss_per_bit: float,
    batches: Sequence[Batch],
    divergence: OutputDivergence,
    *,
    done: Callable[[int], None] = lambda number: None,
) -> dict[str, CompressedTensor]:
    """Round all weights, and halve their steps while their loss together is out of proportion.

    Sensitivities are local, and almost zero where a model is sure of every calibration example;
    its outputs can still be destroyed by all layers together. Warns if that is so even after
    eight halvings.

    Args:
        model: before quantization; it is not changed.
        rounding: of its weights.
        sensitivities: by name.
        loss_per_bit: the loss per bit.
        batches: calibration batches.
        divergence: of the outputs of the model on them.
        done: called with the number of layers rounded.
    """
    quantized = _QuantizedLoss(model, batches, divergence)
    weights = sum(model.get_parameter(name).numel() for name in sensitivities)
    most = max(_LEAST_LOSS, _LOSS_PER_WEIGHT * loss_per_bit * weights)
    sensitivities = dict(sensitivities)
    found, _ = rounding.round(sensitivities, loss_per_bit, done)
    loss = quantized.of(found)
    for _ in range(_HALVINGS):
        if loss <= most:
            break
        sensitivities = {name: 4 * value for name, value in sensitivities.items()}
        found, _ = rounding.round(sensitivities, loss_per_bit, done)
        loss = quantized.of(found)
    if not math.isfinite(loss):
        warnings.warn(
            "outputs of the quantized model are not finite, so that its loss cannot be measured; "
            "let the model give finite outputs, -1e4 in place of -inf say",
            stacklevel=4,
        )
    elif loss > most:
        warnings.warn(
            f"quantization moves the outputs by {loss:.3g} nats, more than the {most:.3g} that "
            "fit the loss per bit; lower loss_per_bit, or exclude sensitive layers",
            stacklevel=4,
        )
    return found


def _floored(sensitivities: dict[str, float], share: float) -> dict[str, float]:
    least = share * max(sensitivities.values()) or 1.0
    return {name: max(value, least) for name, value in sensitivities.items()}


def _cheapest_sensitivity(
    name: str,
    first: tuple[CompressedTensor, float],
    rounding: LayerRounding,
    sensitivity: float,
    loss_per_bit: float,
    loss_alone: _QuantizedLoss,
) -> float:
    """The sensitivity, 4ᵏ times the one given, of least loss and bits of one layer."""
    tensor, loss = first
    best, least = sensitivity, math.inf
    for halving in range(_HALVINGS + 1):
        if halving:
            sensitivity *= 4
            tensor = rounding.round_one(name, sensitivity, loss_per_bit)
            loss = loss_alone.of({name: tensor})
        counts = torch.bincount(tensor.symbols.flatten().long()).cpu().numpy()
        cost = loss + loss_per_bit * entropy(counts)
        if cost < least:
            best, least = sensitivity, cost
        if loss <= loss_alone.divergence.saturation:
            break
    if not least < math.inf:
        raise ModelError(
            f"with tensor {name!r} alone quantized the outputs have a divergence of {loss} from "
            "those before; let the model give finite outputs, -1e4 in place of -inf say"
        )
    return best


class _QuantizedLoss:
    """Divergence of the outputs with some weights quantized, batch normalization re-estimated."""

    def __init__(
        self, model: nn.Module, batches: Sequence[Batch], divergence: OutputDivergence
    ) -> None:
        self.divergence = divergence
        self._model = model
        self._batches = batches
        self._drift = batch_norm_drift(model, batches)
        self._buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}

    @torch.no_grad()
    def of(self, tensors: Mapping[str, CompressedTensor]) -> float:
        """The divergence, 0 or more; infinite where it is not finite."""
        weights = {name: self._model.get_parameter(name) for name in tensors}
        before = {name: weight.detach().clone() for name, weight in weights.items()}
        try:
            for name, tensor in tensors.items():
                weights[name].data.copy_(tensor.dequantize())
            reestimate_batch_norms_(self._model, self._batches, drift=self._drift)
            loss = self.divergence.of(self._model)
        finally:
            for name, weight in weights.items():
                weight.data.copy_(before[name])
            for key, buffer in self._model.named_buffers():
                buffer.copy_(self._buffers[key])
        return max(0.0, loss) if math.isfinite(loss) else math.inf
