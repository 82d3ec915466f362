"""Second-order rounding (GPTQ): weights still to be rounded compensate for the error so far."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from flyweight import _native
from flyweight.compressed import CompressedTensor
from flyweight.errors import ModelError
from flyweight.modules import nonzero_mask
from flyweight.quantization.rate_distortion import tensor_of_codes

__all__ = ["Curvature", "gptq", "gptq_codes"]

_BLOCK = 128  # columns whose effect on all others is applied at once
_PIECE = 1 << 22  # weights that are rounded at a time


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
    curvature = Curvature.of(correlation.double().clone(), damping)
    codes = gptq_codes(
        weight, curvature, step=step, mask=mask, bits=bits, loss_per_bit=loss_per_bit, sweeps=sweeps
    )
    if bits is None:
        return CompressedTensor.from_values((codes * step).to(weight.device, weight.dtype))
    return tensor_of_codes(codes, bits.numel() // 2, step, weight)


@dataclasses.dataclass(frozen=True)
class Curvature:
    """Second derivatives of a layer's squared error, and the factor of their inverse for GPTQ.

    Args:
        hessian: I×I or G×I×I, float64, damped, on the CPU.
        factor: upper triangular U with UᵀU the inverse of it.
    """

    hessian: Tensor
    factor: Tensor

    @staticmethod
    def of(correlation: Tensor, damping: float = 0.01) -> Curvature:
        """Return the curvature of a correlation of inputs, float64, which is damped in place.

        Raises:
            ModelError: the damped correlation is not positive definite.

        Example:
            >>> Curvature.of(4 * torch.eye(2).double(), damping=0.0).factor.diagonal().tolist()
            [0.5, 0.5]
        """
        diagonal = correlation.diagonal(dim1=-2, dim2=-1)
        diagonal += damping * diagonal.mean() + torch.finfo(torch.float64).tiny
        return Curvature(correlation.cpu().contiguous(), _factor_of_inverse(correlation).cpu())


@torch.no_grad()
def gptq_codes(
    weight: Tensor,
    curvature: Curvature,
    *,
    step: float,
    mask: Tensor | None = None,
    bits: Tensor | None = None,
    loss_per_bit: float = 0.0,
    sweeps: int = 0,
) -> Tensor:
    """Return the codes that `gptq` chooses: float64, of the shape of ``weight``, on the CPU."""
    columns = curvature.hessian.shape[-1]
    shape = (*curvature.hessian.shape[:-2], -1, columns)
    rows = weight.detach().flatten(1).cpu().reshape(shape)
    kept = nonzero_mask(weight.detach(), mask).flatten(1).cpu().reshape(shape)
    codes = torch.empty(rows.shape, dtype=torch.float64)
    worth = loss_per_bit / step**2
    costs = None if bits is None else bits.detach().double().cpu().contiguous().numpy()
    for part in _row_parts(rows):
        left = torch.where(kept[part], rows[part].double() / step, 0.0).contiguous()
        chosen = torch.zeros_like(left)
        task = _Columns(curvature, kept[part].contiguous(), costs, worth, chosen)
        task.choose(left.clone())
        if sweeps:
            task.choose_again((left - chosen) @ curvature.hessian, sweeps)
        codes[part] = chosen
    return codes.reshape(weight.shape)


@dataclasses.dataclass(frozen=True)
class _Columns:
    """Rows of weights whose codes are chosen column after column."""

    curvature: Curvature
    kept: Tensor
    bits: object
    worth: float
    codes: Tensor

    def choose(self, left: Tensor) -> None:
        """Choose the codes of weights, in steps, which the others make up for."""
        factor = self.curvature.factor
        for start, end in _blocks(left.shape[-1]):
            errors = self._run(_native.gptq_first, factor, left, start, end)
            if end < left.shape[-1]:
                left[..., end:] -= errors @ factor[..., start:end, end:]

    def choose_again(self, pull: Tensor, sweeps: int) -> None:
        """Choose each code again; ``pull`` is the errors of all times the second derivatives."""
        hessian = self.curvature.hessian
        for start, end in _blocks(pull.shape[-1]) * sweeps:
            changes = self._run(_native.gptq_sweep, hessian, pull, start, end)
            if bool(changes.any()):
                pull[..., :start] -= changes @ hessian[..., start:end, :start]
                pull[..., end:] -= changes @ hessian[..., start:end, end:]

    def _run(
        self, loop: Callable[..., Any], matrix: Tensor, state: Tensor, start: int, end: int
    ) -> Tensor:
        changes = torch.empty(*state.shape[:-1], end - start, dtype=torch.float64)
        if state.numel():
            loop(
                matrix.numpy(),
                self.kept.numpy(),
                self.bits,
                state.numpy(),
                self.codes.numpy(),
                changes.numpy(),
                *state.shape[-2:],
                start,
                self.worth,
            )
        return changes


def _row_parts(rows: Tensor) -> Iterator[tuple[slice, ...]]:
    """Parts of the rows of all groups, so that few are in memory as float64."""
    number, columns = rows.shape[-2:]
    groups = rows.numel() // max(1, number * columns)
    size = max(1, _PIECE // max(1, groups * columns))
    for start in range(0, number, size):
        part = slice(start, start + size)
        yield (part,) if rows.ndim == 2 else (slice(None), part)


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
        del factor  # a matrix of many inputs takes half a gigabyte
        factor, failed = torch.linalg.cholesky_ex(inverse, upper=True)
        del inverse
    if failed.any():
        raise ModelError(
            "the correlation of the inputs is not positive definite; look for NaN in the "
            "calibration data, or give more of it or a larger damping"
        )
    return factor.contiguous()
