"""Round the weights of all layers at one loss per bit, by GPTQ where inputs are known."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from flyweight.batches import Batch
from flyweight.compressed import CompressedTensor
from flyweight.quantization.gptq_rounding import gptq
from flyweight.quantization.input_statistics import input_correlations
from flyweight.quantization.rate_distortion import (
    LARGEST_CODE,
    code_bits,
    rdoq,
    steps_at_loss_per_bit,
)

__all__ = ["MOST_INPUTS", "LayerRounding"]

MOST_INPUTS = 8192
"""Inputs of a layer for GPTQ, which takes 40 bytes for each pair of them."""

_LOG = logging.getLogger(__name__)
_CORRELATION_BYTES = 1 << 30  # of all layers whose inputs are correlated at a time
# Where weights still to come take up the error, a wider step with a narrower dead zone costs less
# than the step and the loss per bit of each weight alone; measured on validation images.
_WIDER = 1.2
_SWEEPS = 2  # over the columns after the first
_STEP_BITS = 4  # of a step's mantissa after the first
_ROUNDS = 2  # of rounding at the bits that codes cost, and counting these again


class LayerRounding:
    """Round weights to grids whose steps follow from a loss per bit.

    Args:
        model: holds the weights; it is not changed.
        weights: parameters by name.
        batches: calibration batches.
        second_order: use GPTQ in the layers whose inputs `input_correlations` knows; else each
            weight is rounded alone.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2))
        >>> weights = {"0.weight": model[0].weight}
        >>> rounding = LayerRounding(model, weights, [torch.ones(4, 2)], second_order=False)
        >>> tensors, errors = rounding.round({"0.weight": 1.0}, 1e-6)
        >>> errors["0.weight"] < 1e-4
        True
    """

    def __init__(
        self,
        model: nn.Module,
        weights: Mapping[str, Tensor],
        batches: Sequence[Batch],
        *,
        second_order: bool,
    ) -> None:
        self._model = model
        self._weights = weights
        self._batches = batches
        self._groups = _groups(weights) if second_order else []
        self._known: dict[str, Tensor] | None = None

    def round(
        self,
        sensitivities: Mapping[str, float],
        loss_per_bit: float,
        done: Callable[[int], None] = lambda number: None,
    ) -> tuple[dict[str, CompressedTensor], dict[str, float]]:
        """Return the quantized weights and the squared error of each, by name.

        The error is that of the weights, weighted by the correlation of the inputs where that is
        known.

        Args:
            sensitivities: increase of the loss by a squared error of 1, by name.
            loss_per_bit: increase of the loss that a bit is worth.
            done: called with the number of layers rounded.
        """
        steps_at_loss_per_bit(sensitivities, loss_per_bit)  # raises for impossible ones
        found: dict[str, CompressedTensor] = {}
        errors: dict[str, float] = {}
        for name, correlation in self._correlated():
            weight = self._weights[name]
            found[name] = _at_loss_per_bit(weight, correlation, sensitivities[name], loss_per_bit)
            errors[name] = _error(weight, correlation, found[name])
            done(len(found))
        return (
            {name: found[name] for name in self._weights},
            {name: errors[name] for name in self._weights},
        )

    def round_one(self, name: str, sensitivity: float, loss_per_bit: float) -> CompressedTensor:
        """Return one quantized weight; arguments are those of `round`."""
        correlations = self._known
        if correlations is None:
            names = [name] if any(name in group for group in self._groups) else []
            correlations = input_correlations(self._model, names, self._batches) if names else {}
        return _at_loss_per_bit(
            self._weights[name], correlations.get(name), sensitivity, loss_per_bit
        )

    def _correlated(self) -> Iterator[tuple[str, Tensor | None]]:
        """Each weight with the correlation of its inputs, None where it is not known."""
        names = iter(self._weights)
        for group in self._groups:
            correlations = self._known
            if correlations is None:
                correlations = input_correlations(self._model, group, self._batches)
                if len(self._groups) == 1:
                    self._known = correlations
            for name in group:
                yield name, correlations.get(name)
        grouped = {name for group in self._groups for name in group}
        yield from ((name, None) for name in names if name not in grouped)


def _groups(weights: Mapping[str, Tensor]) -> list[list[str]]:
    """Names whose correlations are held in memory at a time."""
    groups: list[list[str]] = []
    held = _CORRELATION_BYTES
    for name, weight in weights.items():
        inputs = weight[0].numel()
        if inputs > MOST_INPUTS:
            _LOG.warning(
                "tensor %r has %s inputs, more than the %s of second-order rounding; each of its "
                "weights is rounded alone",
                name,
                f"{inputs:,}",
                f"{MOST_INPUTS:,}",
            )
            continue
        size = 8 * inputs**2
        if held + size > _CORRELATION_BYTES:
            groups.append([])
            held = 0
        groups[-1].append(name)
        held += size
    return groups


def _at_loss_per_bit(
    weight: Tensor, correlation: Tensor | None, sensitivity: float, loss_per_bit: float
) -> CompressedTensor:
    step = steps_at_loss_per_bit({"": sensitivity}, loss_per_bit)[""]
    step = step if correlation is None else _short(_WIDER * step)
    return _rounded(weight, correlation, _wide_enough(weight, step), loss_per_bit / sensitivity)


def _short(step: float) -> float:
    """Round a step to a mantissa whose multiples are exact in float16."""
    mantissa, exponent = math.frexp(step)
    scale = 1 << (_STEP_BITS + 1)
    return math.ldexp(round(mantissa * scale) / scale, exponent)


def _wide_enough(weight: Tensor, step: float) -> float:
    """The step, or a wider one where a tensor would have more levels than pay."""
    largest = float(weight.detach().abs().max())
    if round(largest / step) <= LARGEST_CODE:
        return step
    return largest / LARGEST_CODE


def _rounded(
    weight: Tensor, correlation: Tensor | None, step: float, worth: float
) -> CompressedTensor:
    """On a grid; a bit is worth so much squared error of a weight."""
    if correlation is None:
        return rdoq(weight, step=step, loss_per_bit=worth / 2)
    worth = worth / 4
    tensor = rdoq(weight, step=step, loss_per_bit=worth)
    largest = int(torch.round(weight.detach() / step).abs().max()) + 1
    mean = float(correlation.diagonal(dim1=-2, dim2=-1).mean())
    for _ in range(_ROUNDS):
        codes = torch.round(tensor.dequantize() / step).clamp(-largest, largest)
        tensor = gptq(
            weight,
            correlation,
            step=step,
            bits=code_bits(codes, largest),
            loss_per_bit=mean * worth / 2,
            sweeps=_SWEEPS,
        )
    return tensor


def _error(weight: Tensor, correlation: Tensor | None, tensor: CompressedTensor) -> float:
    """Squared error of the weight, as the layer's output has it where inputs correlate."""
    error = (weight.detach() - tensor.dequantize()).flatten(1).double()
    if correlation is None:
        return float(error.square().sum())
    error = error.view(*correlation.shape[:-2], -1, error.shape[1])  # rows of each group
    mean = correlation.diagonal(dim1=-2, dim2=-1).mean()
    if not mean:  # no input ever was other than zero, so no output is wrong
        return 0.0
    return float(((error @ correlation) * error).sum() / mean)
