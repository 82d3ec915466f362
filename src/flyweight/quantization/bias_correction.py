"""Biases that give each output of a quantised network the mean that it had before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flyweight.errors import DataError, ModelError
from flyweight.batches import evaluating

__all__ = ["correct_biases_"]


@torch.no_grad()
def correct_biases_(model: nn.Module, reference: nn.Module, batches: Iterable[Tensor]) -> None:
    """Shift biases so that each output of a layer has the mean that it had before quantisation.

    For the layers, linear and convolutional, that have a bias; from the first that runs to the
    last, as each changes what the next one sees; not for layers that no batch reaches. What a batch
    normalisation follows it corrects itself: `flyweight.batch_norm.reestimate_batch_norms_` comes
    first.

    Arguments:
        model: quantised, in evaluation mode while it is corrected; only biases change.
        reference: the same network before; stays as it was.
        batches: inputs of both, on their device; each example counts the same.

    Raises DataError without batches, ModelError where the reference lacks a layer.

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
    inputs = list(batches)
    if not inputs:
        raise DataError("there are no calibration batches to correct the biases with")
    names = [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd) and layer.bias is not None
    ]
    try:
        wanted = _mean_outputs(reference, names, inputs)
    except AttributeError as error:
        raise ModelError(f"the network before quantisation lacks a layer: {error}") from error
    for name in wanted:
        found = _mean_outputs(model, [name], inputs)
        if name in found:  # an expert may be sent no example any more
            bias = model.get_parameter(f"{name}.bias")
            bias.add_((wanted[name] - found[name]).to(bias.dtype))


def _mean_outputs(
    model: nn.Module, names: Sequence[str], batches: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Mean of each output (of each channel) of the layers named, float64, as they run."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def gather(name: str, layer: Any, outputs: Tensor) -> None:
        channels = -1 if isinstance(layer, nn.Linear) else -1 - len(layer.kernel_size)
        rows = outputs.double().movedim(channels, -1)[None].flatten(0, -2)
        if not rows.numel():
            return
        sums[name] = sums.get(name, 0) + rows.sum(0)
        counts[name] = counts.get(name, 0) + len(rows)

    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda layer, _, outputs, name=name: gather(name, layer, outputs)
        )
        for name in names
    ]
    try:
        with evaluating(model):
            for inputs in batches:
                model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return {name: total / counts[name] for name, total in sums.items()}
