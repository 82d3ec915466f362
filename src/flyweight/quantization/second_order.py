"""Rounding that lets the weights still to come make up for the error so far."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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

    Raises ModelError for other layers, DataError without batches.
    """
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    handles = []
    try:
        for name in names:
            layer = model.get_submodule(name.rpartition(".")[0])
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
    plain = isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer.padding_mode == "zeros"
    if plain and not isinstance(layer.padding, str):
        sizes = (layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        return lambda inputs: F.unfold(inputs, *sizes).transpose(1, 2).flatten(0, 1)  # type: ignore[arg-type]
    raise ModelError(
        f"tensor {name!r} is of a {type(layer).__name__} whose inputs cannot be told; "
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

    Raises ModelError for shapes that do not go together.

    Sources: Frantar et al. 2023, "GPTQ", §3, after Hassibi & Stork 1993, "Optimal brain surgeon".
    """
    rows = weight.detach().flatten(1).double()
    if correlation.shape != (rows.shape[1], rows.shape[1]):
        raise ModelError(
            f"inputs correlate in shape {tuple(correlation.shape)}, and the weight has "
            f"{rows.shape[1]} columns"
        )
    if not step > 0:
        raise ModelError(f"a step is above 0; found {step}")
    kept = kept_weights(weight.detach(), mask).flatten(1)
    hessian = correlation.double().clone()
    diagonal = hessian.diagonal()
    diagonal += damping * diagonal.mean() + torch.finfo(torch.float64).tiny
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    factor = torch.linalg.cholesky(inverse, upper=True)
    left = torch.where(kept, rows, 0.0)
    values = torch.zeros_like(left)
    for column in range(rows.shape[1]):
        pivot = factor[column, column]
        target = left[:, column]
        codes = torch.round(target / step)
        if bits is not None:
            codes = _cheapest(target / step, bits, price * pivot**2 / step**2)
        found = torch.where(kept[:, column], codes * step, 0.0)
        values[:, column] = found
        error = (target - found) / pivot
        left[:, column + 1 :] -= error[:, None] * factor[column, column + 1 :]
    return CompressedTensor.from_values(values.view(weight.shape).to(weight.dtype))


def _cheapest(ratio: Tensor, bits: Tensor, price: Tensor) -> Tensor:
    """Of the nearest code, the next one toward zero, and zero: that of least error and bits."""
    largest = bits.numel() // 2
    nearest = torch.round(ratio).clamp(-largest, largest)
    choices = torch.stack([nearest, nearest - nearest.sign(), torch.zeros_like(nearest)])
    costs = (ratio - choices) ** 2 + price * bits.to(ratio)[(choices + largest).long()]
    return choices.gather(0, costs.argmin(0)[None])[0]
