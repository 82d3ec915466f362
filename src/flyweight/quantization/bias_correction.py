"""Bias correction: restore the mean outputs that layers had before quantization."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flyweight.batches import Batch, Batches, evaluating, run_model
from flyweight.errors import DataError, ModelError

__all__ = ["correct_biases_"]


@torch.no_grad()
def correct_biases_(model: nn.Module, reference: nn.Module, batches: Batches) -> None:
    """Shift biases so that each output of a layer has the mean that it had before quantization.

    Corrects linear layers and convolutions that have a bias, in the order in which they run, as
    each changes the inputs of the next; not layers that no batch reaches. Re-estimate batch
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
        expected = _mean_outputs(reference, names, data)
    except AttributeError as error:
        raise ModelError(f"the reference model lacks a layer: {error}") from error
    for name in expected:
        found = _mean_outputs(model, [name], data)
        if name in found:  # an expert may be sent no example any more
            bias = model.get_parameter(f"{name}.bias")
            bias.add_((expected[name] - found[name]).to(bias.dtype))


def _mean_outputs(
    model: nn.Module, names: Sequence[str], batches: Sequence[Batch]
) -> dict[str, Tensor]:
    """Mean of each output (of each channel) of the named layers, float64, in order of running."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def add(name: str, layer: Any, outputs: Tensor) -> None:
        channels = -1 if isinstance(layer, nn.Linear) else -1 - len(layer.kernel_size)
        rows = outputs.double().movedim(channels, -1)[None].flatten(0, -2)
        if not rows.numel():
            return
        sums[name] = sums.get(name, 0) + rows.sum(0)
        counts[name] = counts.get(name, 0) + len(rows)

    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda layer, _, outputs, name=name: add(name, layer, outputs)
        )
        for name in names
    ]
    try:
        with evaluating(model):
            for batch in batches:
                run_model(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return {name: total / counts[name] for name, total in sums.items()}
