"""Bias correction: restore the mean outputs that layers had before quantization."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flyweight.batches import Batch, Batches, evaluating, run_model
from flyweight.errors import DataError, ModelError

__all__ = ["correct_biases_"]

_GROUPS = 4  # of layers


@torch.no_grad()
def correct_biases_(model: nn.Module, reference: nn.Module, batches: Batches) -> None:
    """Shift biases so that each output of a layer has the mean that it had before quantization.

    Corrects linear layers and convolutions that have a bias, in the order in which they run, as
    each changes the inputs of the next; not layers that no batch reaches. Up to four layers are
    corrected one after the other, each by a run of all batches. More are corrected in four groups;
    within a group a layer sees those before it corrected by the batches so far. Re-estimate batch
    normalization before (`flyweight.batch_norm.reestimate_batch_norms_`), which corrects the layers
    ahead of it.

    Args:
        model: quantized; only its biases change. It runs in evaluation mode.
        reference: the same model before; it is not changed.
        batches: calibration batches, on the device of both; each example counts the same.

    Raises:
        DataError: there are no batches.
        ModelError: the reference lacks a layer.

    Example:
        >>> before, after = nn.Linear(1, 1), nn.Linear(1, 1)
        >>> _ = before.load_state_dict({"weight": torch.ones(1, 1), "bias": torch.zeros(1)})
        >>> _ = after.load_state_dict({"weight": torch.zeros(1, 1), "bias": torch.zeros(1)})
        >>> correct_biases_(after, before, [torch.tensor([[2.0], [4.0]])])
        >>> after.bias.tolist()
        [3.0]

    Source: Nagel et al. 2019, "Data-free quantization through weight equalization and bias
    correction", §4.2 and appendix D.
    """
    data = list(batches)
    if not data:
        raise DataError("there are no calibration batches to correct the biases with; give some")
    names = [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd) and layer.bias is not None
    ]
    try:
        expected = _summed_outputs(reference, names, data)
    except AttributeError as error:
        raise ModelError(f"the reference model lacks a layer: {error}") from error
    reached = [*expected]
    size = math.ceil(len(reached) / _GROUPS)
    for start in range(0, len(reached), max(1, size)):
        group = {name: expected[name] for name in reached[start : start + size]}
        for name, shift in _shifts(model, group, data).items():
            bias = model.get_parameter(f"{name}.bias")
            bias.add_(shift.to(bias.dtype))


class _Mean:
    """Of rows that come in parts."""

    def __init__(self) -> None:
        self.count = 0
        self.total: Tensor | int = 0

    def add(self, count: int, total: Tensor) -> None:
        self.count += count
        self.total = self.total + total

    def minus(self, other: _Mean) -> Tensor | None:
        """The difference of two means; None where one has no rows."""
        if not (self.count and other.count):
            return None
        return torch.as_tensor(self.total / self.count - other.total / other.count)


_Sums = dict[int, tuple[int, Tensor]]  # rows of outputs and their sum, by number of the batch


def _rows(layer: Any, outputs: Tensor) -> Tensor:
    """Outputs as rows of channels, float64."""
    channels = -1 if isinstance(layer, nn.Linear) else -1 - len(layer.kernel_size)
    return outputs.double().movedim(channels, -1)[None].flatten(0, -2)


def _summed_outputs(
    model: nn.Module, names: Sequence[str], batches: Sequence[Batch]
) -> dict[str, _Sums]:
    """Sums of each output (of each channel) of the named layers, in order of running."""
    sums: dict[str, _Sums] = {}

    def add(number: int, name: str, layer: Any, outputs: Tensor) -> None:
        rows = _rows(layer, outputs)
        if len(rows):
            of_layer = sums.setdefault(name, {})
            count, total = of_layer.get(number, (0, rows.new_zeros(())))
            of_layer[number] = count + len(rows), total + rows.sum(0)

    _run_hooked(model, names, batches, add)
    return sums


def _shifts(
    model: nn.Module, expected: Mapping[str, _Sums], batches: Sequence[Batch]
) -> dict[str, Tensor]:
    """What the biases of some layers lack, each with those before it corrected.

    An expert may be sent no example any more, and then has none.
    """
    wanted = {name: _Mean() for name in expected}
    found = {name: _Mean() for name in expected}
    current = dict.fromkeys(expected, -1)

    def correct(number: int, name: str, layer: Any, outputs: Tensor) -> Tensor | None:
        while current[name] < number:  # all batches up to this one
            current[name] += 1
            if current[name] in expected[name]:
                wanted[name].add(*expected[name][current[name]])
        rows = _rows(layer, outputs)
        if not len(rows):
            return None
        found[name].add(len(rows), rows.sum(0))
        shift = wanted[name].minus(found[name])
        if shift is None or len(expected) == 1:
            return None
        places = 0 if isinstance(layer, nn.Linear) else len(layer.kernel_size)
        return outputs + shift.to(outputs.dtype).reshape(-1, *(1,) * places)

    _run_hooked(model, [*expected], batches, correct)
    for name, of_layer in expected.items():  # batches that no longer reach a layer
        for number, (count, total) in of_layer.items():
            if number > current[name]:
                wanted[name].add(count, total)
    shifts = {name: wanted[name].minus(found[name]) for name in expected}
    return {name: shift for name, shift in shifts.items() if shift is not None}


def _run_hooked(
    model: nn.Module,
    names: Sequence[str],
    batches: Sequence[Batch],
    hook: Callable[[int, str, Any, Tensor], Tensor | None],
) -> None:
    """Run batches, and call the hook with the number of the batch, name, layer and outputs."""
    number = 0
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda layer, _, outputs, name=name: hook(number, name, layer, outputs)
        )
        for name in names
    ]
    try:
        with evaluating(model):
            for batch in batches:
                run_model(model, batch)
                number += 1
    finally:
        for handle in handles:
            handle.remove()
