"""Second moments of the inputs of layers, which second-order rounding needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flyweight.batches import Batches, evaluating, run_model
from flyweight.errors import DataError, ModelError

__all__ = ["input_correlations"]

# The weights of these are matrices that multiply inputs; a subclass with another forward may use
# its weight in any way.
_KNOWN = (nn.Linear.forward, nn.Conv1d.forward, nn.Conv2d.forward)
_ADDED = 512  # rows of a matrix
_UNFOLDED_BYTES = 1 << 28  # of the inputs of a convolution at a time

_Columns = Callable[[Tensor], Tensor]


@torch.no_grad()
def input_correlations(
    model: nn.Module, names: Iterable[str], batches: Batches
) -> dict[str, Tensor]:
    """Compute the mean of x·xᵀ over the inputs x that each weight is multiplied with.

    It is half the second derivative of the squared error of the layer's output. Weights are left
    out whose inputs are not known: those of other layers than linear ones and convolutions of one
    and two dimensions, of layers with a forward of their own, those that several layers share, and
    those that no batch reaches or that are read instead of called, as in nn.MultiheadAttention.

    Args:
        model: runs in evaluation mode; it is not changed.
        names: of weights.
        batches: calibration batches on the device of the model.

    Returns:
        float64 matrices by name: I×I for a weight O×I (or O×C×H×W, with I = C·H·W), and G×I×I for
        a convolution in G groups.

    Raises:
        ModelError: the model has no such tensor.
        DataError: there are no batches.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 1))
        >>> inputs = torch.tensor([[1.0, 2.0], [1.0, 0.0]])
        >>> input_correlations(model, ["0.weight"], [inputs])["0.weight"].tolist()
        [[1.0, 1.0], [1.0, 2.0]]

    Source: Frantar et al. 2023, "GPTQ", §3.
    """
    sums: dict[str, Tensor] = {}
    counts: Counter[str] = Counter()
    owners = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))

    def add(name: str, columns: _Columns, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        inputs = given[0] if given else named["input"]
        if not inputs.numel():
            return
        for some in _parts(inputs, model.get_parameter(name)):
            rows = columns(some.float())
            product = rows.mT @ rows
            if name in sums:
                for start in range(0, product.shape[-2], _ADDED):
                    part = slice(start, start + _ADDED)
                    sums[name][..., part, :] += product[..., part, :]  # which widens a copy
            else:
                sums[name] = product.double()
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
            columns = _columns_of(layer) if leaf == "weight" and owners[id(weight)] < 2 else None
            if columns is not None:
                handles.append(
                    layer.register_forward_pre_hook(
                        lambda _, given, named, name=name, columns=columns: add(
                            name, columns, given, named
                        ),
                        with_kwargs=True,
                    )
                )
        with evaluating(model):
            for batch in batches:
                run_model(model, batch)
                number += 1
    finally:
        for handle in handles:
            handle.remove()
    if not number:
        raise DataError("there are no calibration batches to run the model on; give some")
    return {name: total.div_(counts[name]) for name, total in sums.items()}


def _parts(inputs: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    """Split the inputs of a layer into parts of examples where a convolution unfolds them."""
    if weight.ndim < 3 or inputs.ndim < weight.ndim:
        return (inputs,)
    bytes_each = inputs[0].numel() * weight[0, 0].numel() * 4
    return torch.split(inputs, max(1, _UNFOLDED_BYTES // max(1, bytes_each)))


def _columns_of(layer: nn.Module) -> _Columns | None:
    """A function from the inputs of a layer to rows that its weight, as a matrix, multiplies.

    They are N×I, or G×N×I in groups. None if it is not known.
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
