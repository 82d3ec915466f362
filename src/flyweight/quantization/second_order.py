"""Rounding that lets the weights still to come make up for the error so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flyweight.compressed import CompressedTensor
from flyweight.errors import DataError, ModelError
from flyweight.modes import evaluating
from flyweight.quantization.kept import kept_weights

__all__ = ["input_correlations", "round_second_order"]


@torch.no_grad()
def input_correlations(
    model: nn.Module, names: Iterable[str], batches: Iterable[Tensor]
) -> dict[str, Tensor]:
    """Mean of x·xᵀ over the inputs x that each weight is multiplied with.

    Arguments:
        model: stays as it was; runs in evaluation mode.
        names: of weights of linear layers and of two-dimensional convolutions in one group.
        batches: inputs of the model, on its device; labels are not needed.

    Returns float64 matrices, I×I for a weight of O×I (or O×C×H×W, with I = C·H·W): the second
    derivative of the squared error of the layer's output, halved.

    Raises ModelError for other layers and tensors that the model lacks, DataError without batches.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 1))
        >>> inputs = torch.tensor([[1.0, 2.0], [1.0, 0.0]])
        >>> input_correlations(model, ["0.weight"], [inputs])["0.weight"].tolist()
        [[1.0, 1.0], [1.0, 2.0]]

    Source: Frantar et al. 2023, "GPTQ", §3.
    """
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    handles = []
    try:
        for name in names:
            path, _, leaf = name.rpartition(".")
            try:
                layer = model.get_submodule(path)
                getattr(layer, leaf)
            except AttributeError:
                raise ModelError(f"the model has no tensor named {name!r}") from None
            columns = _columns_of(layer, name)

            def gather(_: nn.Module, inputs: tuple[Any, ...], name: str, take: Any) -> None:
                rows = take(inputs[0].float())
                sums[name] = sums.get(name, 0) + (rows.T @ rows).double()
                counts[name] = counts.get(name, 0) + len(rows)

            handles.append(
                layer.register_forward_pre_hook(
                    lambda m, i, name=name, take=columns: gather(m, i, name, take)
                )
            )
        with evaluating(model):
            for inputs in batches:
                model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    if len(sums) < len(handles):
        raise DataError("no calibration batch reached all of the layers to quantise")
    return {name: total / counts[name] for name, total in sums.items()}


def _columns_of(layer: nn.Module, name: str) -> Callable[[Tensor], Tensor]:
    """What turns the inputs of a layer into rows that its weight, as a matrix, multiplies."""
    if isinstance(layer, nn.Linear):
        return lambda inputs: inputs.reshape(-1, inputs.shape[-1])
    if isinstance(layer, nn.Conv2d) and layer.groups == 1:
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        pads = layer._reversed_padding_repeated_twice  # numbers, also where padding is a word
        sizes = (layer.kernel_size, layer.dilation, 0, layer.stride)

        def columns(inputs: Tensor) -> Tensor:
            padded = F.pad(inputs, pads, mode=mode)
            return F.unfold(padded, *sizes).transpose(1, 2).flatten(0, 1)

        return columns
    grouped = isinstance(layer, nn.Conv2d)
    why = f"in {layer.groups} groups" if grouped else "whose inputs cannot be told"
    raise ModelError(
        f"tensor {name!r} is of a {type(layer).__name__} {why}; "
        "leave it out, or round it to the nearest level"
    )


@torch.no_grad()
def round_second_order(
    weight: Tensor,
    correlation: Tensor,
    *,
    step: float,
    mask: Tensor | None = None,
    bits: Tensor | None = None,
    price: float = 0.0,
    damping: float = 0.01,
    sweeps: int = 0,
) -> CompressedTensor:
    """Put the non-zero weights on multiples of a step so that the layer's output changes least.

    Column after column is rounded, and the columns not yet rounded take up its error as the
    correlation of the inputs allows.

    Arguments:
        weight: O×I or O×C×H×W.
        correlation: I×I of its inputs, from `input_correlations`.
        step: distance of levels, above 0.
        mask: bool, of the shape of ``weight``, True for what is kept; without one, zeros are
            pruned. What is pruned stays 0.
        bits: what each code from −K to K costs, 2·K + 1 numbers, from `code_bits`; codes beyond
            are not taken. None leaves codes free, each to be the nearest.
        price: squared error of an output that a bit is worth.
        damping: of the mean of the diagonal, added to it.
        sweeps: over all columns afterwards, in which each is chosen anew with the others as they
            are; none makes the sum of error and price times bits larger.

    Raises ModelError for shapes that do not go together, numbers that are not finite, and a
    correlation that is not positive definite once it is damped.

    Example:
        >>> weight, alike = torch.tensor([[0.4, 0.4]]), torch.ones(2, 2)
        >>> round_second_order(weight, alike, step=1.0).dequantize().tolist()
        [[0.0, 1.0]]

    Sources: Frantar et al. 2023, "GPTQ", §3, after Hassibi & Stork 1993, "Optimal brain surgeon";
    sweeps: Behdin et al. 2023, "QuantEase", §3.
    """
    if weight.ndim < 2:
        raise ModelError(f"a weight has two dimensions or more; found shape {tuple(weight.shape)}")
    rows = weight.detach().flatten(1).double()
    if correlation.shape != (rows.shape[1], rows.shape[1]):
        raise ModelError(
            f"inputs correlate in shape {tuple(correlation.shape)}, and the weight has "
            f"{rows.shape[1]} columns"
        )
    if not 0 < step < math.inf:
        raise ModelError(f"a step is above 0 and finite; found {step}")
    if not (0 <= price < math.inf and 0 <= damping < math.inf):
        raise ModelError(f"price and damping are finite and 0 or more; found {price} and {damping}")
    if bits is not None and (bits.ndim != 1 or bits.numel() % 2 == 0):
        raise ModelError(
            "bits are one number for each code from -K to K, an odd number of them; "
            f"found shape {tuple(bits.shape)}"
        )
    kept = kept_weights(weight.detach(), mask).flatten(1)
    hessian = correlation.double().clone()
    diagonal = hessian.diagonal()
    diagonal += damping * diagonal.mean() + torch.finfo(torch.float64).tiny
    factor = _factor_of_inverse(hessian)
    left = torch.where(kept, rows, 0.0)
    values = torch.zeros_like(left)

    def chosen(
        target: Tensor, column: int, sharpness: Tensor, present: Tensor | None = None
    ) -> Tensor:
        codes = torch.round(target / step)
        if bits is not None:
            before = [] if present is None else [torch.round(present / step)]
            codes = _cheapest(target / step, bits, price / (sharpness * step**2), before)
        return torch.where(kept[:, column], codes * step, 0.0)

    for column in range(rows.shape[1]):
        pivot = factor[column, column]
        target = left[:, column]
        found = chosen(target, column, 1 / pivot**2)
        values[:, column] = found
        error = (target - found) / pivot
        left[:, column + 1 :] -= error[:, None] * factor[column, column + 1 :]
    pull = (torch.where(kept, rows, 0.0) - values) @ hessian
    for column in [*range(rows.shape[1])] * sweeps:
        sharpness, present = hessian[column, column], values[:, column]
        found = chosen(present + pull[:, column] / sharpness, column, sharpness, present)
        pull -= (found - present)[:, None] * hessian[column]
        values[:, column] = found
    return CompressedTensor.from_values(values.view(weight.shape).to(weight.dtype))


def _factor_of_inverse(hessian: Tensor) -> Tensor:
    """Upper triangular U with UᵀU the inverse."""
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(hessian)
    if not failed:
        inverse = torch.cholesky_inverse(factor)
        factor, failed = torch.linalg.cholesky_ex(inverse, upper=True)
    if failed:
        raise ModelError(
            "the correlation of the inputs is not positive definite; look for NaN in the "
            "calibration inputs, or take more of them or a larger damping"
        )
    return factor


def _cheapest(ratio: Tensor, bits: Tensor, price: Tensor, others: Sequence[Tensor]) -> Tensor:
    """Of the nearest code, its neighbours, zero and other codes: that of least error and bits."""
    largest = bits.numel() // 2
    nearest = torch.round(ratio).clamp(-largest, largest)
    choices = torch.stack([nearest, nearest - 1, nearest + 1, torch.zeros_like(nearest), *others])
    choices = choices.clamp(-largest, largest)
    costs = (ratio - choices) ** 2 + price * bits.to(ratio)[(choices + largest).long()]
    return choices.gather(0, costs.argmin(0)[None])[0]
