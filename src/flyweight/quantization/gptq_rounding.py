"""Rounding that lets the weights still to come make up for the error so far."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flyweight.compressed import CompressedTensor
from flyweight.errors import DataError, ModelError
from flyweight.batches import evaluating
from flyweight.modules.selection import nonzero_mask

__all__ = ["input_correlations", "gptq"]


# What these compute is known; a subclass with a forward of its own may use its weight in any way.
_KNOWN = (nn.Linear.forward, nn.Conv1d.forward, nn.Conv2d.forward)


@torch.no_grad()
def input_correlations(
    model: nn.Module, names: Iterable[str], batches: Iterable[Tensor]
) -> dict[str, Tensor]:
    """Mean of x·xᵀ over the inputs x that each weight is multiplied with.

    Arguments:
        model: stays as it was; runs in evaluation mode.
        names: of weights.
        batches: inputs of the model, on its device; labels are not needed.

    Returns float64 matrices, I×I for a weight of O×I (or O×C×H×W, with I = C·H·W), and G×I×I for a
    convolution in G groups: the second derivative of the squared error of the layer's output,
    halved. Left out are weights whose inputs cannot be seen: of layers other than linear ones and
    convolutions of one and two dimensions, of layers with a forward of their own, of several layers
    at once, and those that no batch reaches or that are read instead of called, as in
    nn.MultiheadAttention.

    Raises ModelError for tensors that the model lacks, DataError without batches.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 1))
        >>> inputs = torch.tensor([[1.0, 2.0], [1.0, 0.0]])
        >>> input_correlations(model, ["0.weight"], [inputs])["0.weight"].tolist()
        [[1.0, 1.0], [1.0, 2.0]]

    Source: Frantar et al. 2023, "GPTQ", §3.
    """
    sums: dict[str, Tensor] = {}
    counts: Counter[str] = Counter()
    layers = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))

    def gather(name: str, take: _Columns, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        inputs = given[0] if given else named["input"]
        if inputs.numel():
            rows = take(inputs.float())
            sums[name] = sums.get(name, 0) + (rows.mT @ rows).double()
            counts[name] += rows.shape[-2]

    handles = []
    number = 0
    try:
        for name in names:
            path, _, leaf = name.rpartition(".")
            try:
                layer = model.get_submodule(path)
                weight = getattr(layer, leaf)
            except AttributeError:
                raise ModelError(f"the model has no tensor named {name!r}") from None
            take = _columns_of(layer) if leaf == "weight" and layers[id(weight)] < 2 else None
            if take is not None:
                handles.append(
                    layer.register_forward_pre_hook(
                        lambda _, given, named, name=name, take=take: gather(
                            name, take, given, named
                        ),
                        with_kwargs=True,
                    )
                )
        with evaluating(model):
            for inputs in batches:
                model(inputs)
                number += 1
    finally:
        for handle in handles:
            handle.remove()
    if not number:
        raise DataError("there are no calibration batches to see the inputs of layers with")
    return {name: total / counts[name] for name, total in sums.items()}


_Columns = Callable[[Tensor], Tensor]


def _columns_of(layer: nn.Module) -> _Columns | None:
    """What turns the inputs of a layer into rows that its weight, as a matrix, multiplies.

    They are N×I, or G×N×I in groups. None where that is not known.
    """
    if "forward" in vars(layer) or type(layer).forward not in _KNOWN:
        return None
    if not isinstance(layer, nn.Conv1d | nn.Conv2d):
        return lambda inputs: inputs.reshape(-1, inputs.shape[-1])
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    pads = layer._reversed_padding_repeated_twice  # numbers, also where padding is a word
    dimensions, groups = len(layer.kernel_size), layer.groups
    flat = (1,) * (2 - dimensions)  # an image of one line
    kernel, dilation, stride = (
        flat + sizes for sizes in (layer.kernel_size, layer.dilation, layer.stride)
    )

    def columns(inputs: Tensor) -> Tensor:
        padded = F.pad(inputs.reshape(-1, *inputs.shape[-1 - dimensions :]), pads, mode=mode)
        images = padded.reshape(*padded.shape[:2], *flat, *padded.shape[2:])
        unfolded = F.unfold(images, kernel, dilation, 0, stride)
        if groups == 1:
            return unfolded.transpose(1, 2).flatten(0, 1)
        number, _, places = unfolded.shape
        return unfolded.view(number, groups, -1, places).permute(1, 0, 3, 2).flatten(1, 2)

    return columns


@torch.no_grad()
def gptq(
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
        correlation: I×I of its inputs, from `input_correlations`; or G×I×I, each for O/G outputs in
            turn.
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
        >>> gptq(weight, alike, step=1.0).dequantize().tolist()
        [[0.0, 1.0]]

    Sources: Frantar et al. 2023, "GPTQ", §3, after Hassibi & Stork 1993, "Optimal brain surgeon";
    sweeps: Behdin et al. 2023, "QuantEase", §3.
    """
    if weight.ndim < 2:
        raise ModelError(f"a weight has two dimensions or more; found shape {tuple(weight.shape)}")
    rows = weight.detach().flatten(1).double()
    outputs, columns = rows.shape
    groups = math.prod(correlation.shape[:-2])
    square = correlation.ndim in (2, 3) and correlation.shape[-2:] == (columns, columns)
    if not square or not groups or outputs % groups:
        raise ModelError(
            f"inputs correlate in shape {tuple(correlation.shape)}, and the weight has {outputs} "
            f"rows of {columns} columns"
        )
    shape = (*correlation.shape[:-2], outputs // groups, columns)
    rows = rows.reshape(shape)
    if not 0 < step < math.inf:
        raise ModelError(f"a step is above 0 and finite; found {step}")
    if not (0 <= price < math.inf and 0 <= damping < math.inf):
        raise ModelError(f"price and damping are finite and 0 or more; found {price} and {damping}")
    if bits is not None and (bits.ndim != 1 or bits.numel() % 2 == 0):
        raise ModelError(
            "bits are one number for each code from -K to K, an odd number of them; "
            f"found shape {tuple(bits.shape)}"
        )
    kept = nonzero_mask(weight.detach(), mask).reshape(shape)
    hessian = correlation.double().clone()
    diagonal = hessian.diagonal(dim1=-2, dim2=-1)
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
        return torch.where(kept[..., column], codes * step, 0.0)

    for column in range(columns):
        pivot = factor[..., column, column, None]
        target = left[..., column]
        found = chosen(target, column, 1 / pivot**2)
        values[..., column] = found
        error = (target - found) / pivot
        left[..., column + 1 :] -= error[..., None] * factor[..., column, None, column + 1 :]
    pull = (torch.where(kept, rows, 0.0) - values) @ hessian
    for column in [*range(columns)] * sweeps:
        sharpness, present = hessian[..., column, column, None], values[..., column]
        found = chosen(present + pull[..., column] / sharpness, column, sharpness, present)
        pull -= (found - present)[..., None] * hessian[..., column, None, :]
        values[..., column] = found
    return CompressedTensor.from_values(values.reshape(weight.shape).to(weight.dtype))


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
