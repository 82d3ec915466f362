"""Round the weights of all layers at one loss per bit, by GPTQ where inputs are known."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import Tensor, nn

from flyweight.batches import Batch
from flyweight.compressed import CompressedTensor
from flyweight.quantization.gptq_rounding import Curvature, gptq_codes
from flyweight.quantization.input_statistics import input_correlations
from flyweight.quantization.rate_distortion import (
    LARGEST_CODE,
    code_bits,
    rdoq,
    rdoq_codes,
    steps_at_loss_per_bit,
    tensor_of_codes,
)

__all__ = ["MOST_INPUTS", "LayerRounding"]

MOST_INPUTS = 8192
"""Inputs of a layer for GPTQ, which takes 24 bytes for each pair of them."""

_LOG = logging.getLogger(__name__)
_CURVATURE_BYTES = 1 << 30  # of all layers whose inputs are correlated at a time
_PIECE = 1 << 22  # weights that are in memory as float64 at a time
# Where weights still to come take up the error, a wider step with a narrower dead zone costs less
# than the step and the loss per bit of each weight alone; measured on validation images.
_WIDER = 1.2
_DAMPING = 0.01  # of the correlation, relative to the mean of its diagonal
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
        >>> import torch
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
        self._known: dict[str, _Inputs] | None = None

    def round(
        self,
        sensitivities: Mapping[str, float],
        loss_per_bit: float,
        done: Callable[[int], None] = lambda number: None,
        *,
        wider: float = 1.0,
    ) -> tuple[dict[str, CompressedTensor], dict[str, float]]:
        """Return the quantized weights and the squared error of each, by name.

        The error is that of the weights, weighted by the correlation of the inputs where that is
        known.

        Args:
            sensitivities: increase of the loss by a squared error of 1, by name.
            loss_per_bit: increase of the loss that a bit is worth.
            done: called with the number of layers rounded.
            wider: factor of ``loss_per_bit`` where codes are chosen; steps stay as they are.
        """
        steps_at_loss_per_bit(sensitivities, loss_per_bit)  # raises for impossible ones
        found: dict[str, CompressedTensor] = {}
        errors: dict[str, float] = {}
        for name, inputs in self._correlated():
            weight = self._weights[name]
            found[name] = _at_loss_per_bit(weight, inputs, sensitivities[name], loss_per_bit, wider)
            errors[name] = _error(weight, inputs, found[name])
            done(len(found))
        return (
            {name: found[name] for name in self._weights},
            {name: errors[name] for name in self._weights},
        )

    def round_one(self, name: str, sensitivity: float, loss_per_bit: float) -> CompressedTensor:
        """Return one quantized weight; arguments are those of `round`."""
        known = self._known
        if known is None:
            known = self._inputs([name] if any(name in group for group in self._groups) else [])
        return _at_loss_per_bit(self._weights[name], known.get(name), sensitivity, loss_per_bit)

    def _inputs(self, names: Sequence[str]) -> dict[str, _Inputs]:
        if not names:
            return {}
        correlations = input_correlations(self._model, names, self._batches)
        return {name: _Inputs(value) for name, value in correlations.items()}

    def _correlated(self) -> Iterator[tuple[str, _Inputs | None]]:
        """Each weight with the correlation of its inputs, None where it is not known."""
        for group in self._groups:
            known = self._inputs(group) if self._known is None else self._known
            if len(self._groups) == 1:
                self._known = known
            for name in group:
                yield name, known.get(name)
                if self._known is None:
                    known.pop(name, None)  # and its memory
        grouped = {name for group in self._groups for name in group}
        yield from ((name, None) for name in self._weights if name not in grouped)


class _Inputs:
    """Correlation of the inputs of a layer, which GPTQ changes into a curvature on the first use.

    Attributes:
        mean: of its diagonal.
    """

    def __init__(self, correlation: Tensor) -> None:
        self.mean = float(correlation.diagonal(dim1=-2, dim2=-1).mean())
        self._correlation = correlation
        self._curvature: Curvature | None = None

    def curvature(self) -> Curvature:
        """Damp the correlation, and factor its inverse."""
        if self._curvature is None:
            self._curvature = Curvature.of(self._correlation, _DAMPING)
            del self._correlation
        return self._curvature


def _groups(weights: Mapping[str, Tensor]) -> list[list[str]]:
    """Names whose correlations are held in memory at a time."""
    groups: list[list[str]] = []
    held = _CURVATURE_BYTES
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
        size = 16 * inputs**2
        if held + size > _CURVATURE_BYTES:
            groups.append([])
            held = 0
        groups[-1].append(name)
        held += size
    return groups


def _at_loss_per_bit(
    weight: Tensor,
    inputs: _Inputs | None,
    sensitivity: float,
    loss_per_bit: float,
    wider: float = 1.0,
) -> CompressedTensor:
    step = steps_at_loss_per_bit({"": sensitivity}, loss_per_bit)[""]
    step = step if inputs is None else _short(_WIDER * step)
    worth = wider * loss_per_bit / sensitivity
    return _rounded(weight, inputs, _wide_enough(weight, step), worth)


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


def _rounded(weight: Tensor, inputs: _Inputs | None, step: float, worth: float) -> CompressedTensor:
    """On a grid; a bit is worth so much squared error of a weight."""
    if inputs is None:
        return rdoq(weight, step=step, loss_per_bit=worth / 2)
    worth = worth / 4
    codes, largest = rdoq_codes(weight, step=step, loss_per_bit=worth)
    largest += 1
    curvature = inputs.curvature()
    for _ in range(_ROUNDS):
        codes = gptq_codes(
            weight,
            curvature,
            step=step,
            bits=code_bits(codes, largest),
            loss_per_bit=inputs.mean * worth / 2,
            sweeps=_SWEEPS,
        )
    return tensor_of_codes(codes, largest, step, weight)


def _error(weight: Tensor, inputs: _Inputs | None, tensor: CompressedTensor) -> float:
    """Squared error of the weight, as the layer's output has it where inputs correlate."""
    if inputs is not None and not inputs.mean:  # never other than zero, so no output is wrong
        return 0.0
    total = 0.0
    quantized, exact = tensor.dequantize().flatten(1), weight.detach().flatten(1)
    hessian = None if inputs is None else inputs.curvature().hessian
    groups = 1 if hessian is None or hessian.ndim == 2 else len(hessian)
    shape = (groups, -1, exact.shape[1])
    quantized, exact = quantized.reshape(shape), exact.reshape(shape)
    for start in range(0, exact.shape[1], size := max(1, _PIECE // max(1, exact[:, :1].numel()))):
        rows = slice(start, start + size)
        error = (exact[:, rows].double() - quantized[:, rows].double()).cpu()
        square = float(error.square().sum())
        if inputs is None or hessian is None:
            total += square
        else:
            total += float(((error @ hessian) * error).sum()) / inputs.mean
            total -= _DAMPING * square  # which only rounding is damped by
    return max(0.0, total)
