"""Second-order rounding (GPTQ): weights still to be rounded compensate for the error so far."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from flyweight.compressed import CompressedTensor
from flyweight.errors import ModelError
from flyweight.modules import nonzero_mask

__all__ = ["gptq"]

_BLOCK = 128  # columns whose effect on all others is applied at once


@torch.no_grad()
def gptq(
    weight: Tensor,
    correlation: Tensor,
    *,
    step: float,
    mask: Tensor | None = None,
    bits: Tensor | None = None,
    loss_per_bit: float = 0.0,
    damping: float = 0.01,
    sweeps: int = 0,
) -> CompressedTensor:
    """Round the nonzero weights to multiples of a step so that the layer's output changes least.

    Column after column is rounded, and the columns not yet rounded compensate for its error as the
    correlation of the inputs allows. Costs O(rows · columns²) operations and 32 · columns² bytes.

    Args:
        weight: O×I or O×C×H×W.
        correlation: I×I of its inputs, from `input_correlations`; or G×I×I, each for O/G outputs in
            turn.
        step: distance of levels, above 0.
        mask: bool, of the shape of ``weight``, True for weights that are not pruned; default: those
            that are not zero. Pruned weights stay 0.
        bits: cost of each code from −K to K, 2·K + 1 numbers, from `code_bits`; codes beyond are
            not used. None leaves the codes free, each the nearest.
        loss_per_bit: squared error of an output that a bit is worth.
        damping: added to the diagonal, relative to its mean.
        sweeps: further passes over all columns, in which each is chosen again while the others
            stay; none increases the sum of error and cost of the bits.

    Raises:
        ModelError: shapes do not fit, numbers are not finite, or the damped correlation is not
            positive definite.

    Example:
        >>> weight, alike = torch.tensor([[0.4, 0.4]]), torch.ones(2, 2)
        >>> gptq(weight, alike, step=1.0).dequantize().tolist()
        [[0.0, 1.0]]

    Sources: Frantar et al. 2023, "GPTQ", §3, after Hassibi & Stork 1993, "Optimal brain surgeon";
    sweeps: Behdin et al. 2023, "QuantEase", §3.
    """
    _check(weight, correlation, step, bits, loss_per_bit, damping)
    columns = correlation.shape[-1]
    shape = (*correlation.shape[:-2], -1, columns)
    rows = weight.detach().flatten(1).double().reshape(shape)
    kept = nonzero_mask(weight.detach(), mask).reshape(shape)
    hessian = correlation.double().clone()
    diagonal = hessian.diagonal(dim1=-2, dim2=-1)
    diagonal += damping * diagonal.mean() + torch.finfo(torch.float64).tiny
    factor = _factor_of_inverse(hessian)
    left = torch.where(kept, rows, 0.0)
    values = torch.zeros_like(left)

    def chosen(
        target: Tensor, column: int, curvature: Tensor, present: Tensor | None = None
    ) -> Tensor:
        codes = torch.round(target / step)
        if bits is not None:
            before = [] if present is None else [torch.round(present / step)]
            cost = loss_per_bit / (curvature * step**2)
            codes = _cheapest(target / step, bits, cost, before)
        return torch.where(kept[..., column], codes * step, 0.0)

    for start, end in _blocks(columns):
        errors = torch.empty_like(left[..., start:end])
        for column in range(start, end):
            pivot = factor[..., column, column, None]
            target = left[..., column]
            found = chosen(target, column, 1 / pivot**2)
            values[..., column] = found
            error = (target - found) / pivot
            errors[..., column - start] = error
            row = factor[..., column, None, column + 1 : end]
            left[..., column + 1 : end] -= error[..., None] * row
        left[..., end:] -= errors @ factor[..., start:end, end:]
    del factor
    pull = (torch.where(kept, rows, 0.0) - values) @ hessian
    for start, end in _blocks(columns) * sweeps:
        changes = torch.empty_like(left[..., start:end])
        for column in range(start, end):
            curvature, present = hessian[..., column, column, None], values[..., column]
            found = chosen(present + pull[..., column] / curvature, column, curvature, present)
            change = found - present
            changes[..., column - start] = change
            pull[..., start:end] -= change[..., None] * hessian[..., column, None, start:end]
            values[..., column] = found
        pull[..., :start] -= changes @ hessian[..., start:end, :start]
        pull[..., end:] -= changes @ hessian[..., start:end, end:]
    return CompressedTensor.from_values(values.reshape(weight.shape).to(weight.dtype))


def _check(
    weight: Tensor,
    correlation: Tensor,
    step: float,
    bits: Tensor | None,
    loss_per_bit: float,
    damping: float,
) -> None:
    if weight.ndim < 2:
        raise ModelError(f"a weight has two dimensions or more; found shape {tuple(weight.shape)}")
    outputs, columns = len(weight), weight[:1].numel()
    groups = math.prod(correlation.shape[:-2])
    square = correlation.ndim in (2, 3) and correlation.shape[-2:] == (columns, columns)
    if not square or not groups or outputs % groups:
        raise ModelError(
            f"the correlation has shape {tuple(correlation.shape)}, and the weight has {outputs} "
            f"rows of {columns} columns; give I×I or G×I×I with I columns and G groups of rows"
        )
    if not 0 < step < math.inf:
        raise ModelError(f"a step is above 0 and finite; found {step}")
    if not (0 <= loss_per_bit < math.inf and 0 <= damping < math.inf):
        raise ModelError(
            f"loss_per_bit and damping are finite and 0 or more; found {loss_per_bit} and {damping}"
        )
    if bits is not None and (bits.ndim != 1 or bits.numel() % 2 == 0):
        raise ModelError(
            "bits are one number for each code from -K to K, an odd number of them; "
            f"found shape {tuple(bits.shape)}"
        )


def _blocks(columns: int) -> list[tuple[int, int]]:
    return [(start, min(start + _BLOCK, columns)) for start in range(0, columns, _BLOCK)]


def _factor_of_inverse(hessian: Tensor) -> Tensor:
    """Upper triangular U with UᵀU the inverse."""
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(hessian)
    if not failed.any():
        inverse = torch.cholesky_inverse(factor)
        factor, failed = torch.linalg.cholesky_ex(inverse, upper=True)
    if failed.any():
        raise ModelError(
            "the correlation of the inputs is not positive definite; look for NaN in the "
            "calibration data, or give more of it or a larger damping"
        )
    return factor


def _cheapest(ratio: Tensor, bits: Tensor, cost: Tensor, others: Sequence[Tensor]) -> Tensor:
    """The best of the nearest code, its neighbors, zero and other codes, by error and bits."""
    largest = bits.numel() // 2
    nearest = torch.round(ratio).clamp(-largest, largest)
    choices = torch.stack([nearest, nearest - 1, nearest + 1, torch.zeros_like(nearest), *others])
    choices = choices.clamp(-largest, largest)
    costs = (ratio - choices) ** 2 + cost * bits.to(ratio)[(choices + largest).long()]
    return choices.gather(0, costs.argmin(0)[None])[0]
