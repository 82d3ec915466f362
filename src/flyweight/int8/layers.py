"""Layers that compute with weights and activations of 8 bits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flyweight.errors import DataError, ModelError
from flyweight.int8.folding import fold_into_convolutions
from flyweight.int8.observer import Observer

__all__ = ["Int8Layer", "prepare_int8"]


class Int8Layer(nn.Module):
    """A linear layer or convolution with int8 weights, inputs and outputs, in simulation.

    Weights are symmetric, −63 to 63 times a scale for each output, or −127 to 127 without
    ``reduce_range``, so that zeros stay zeros. The gradient goes straight through, and the layer
    can be trained on.
    """

    def __init__(
        self, layer: nn.Linear | nn.Conv2d, *, tail: float = 0.0, reduce_range: bool = True
    ) -> None:
        super().__init__()
        self.layer = layer
        self.largest = 63 if reduce_range else 127
        self.inputs = Observer(tail=tail)
        self.outputs = Observer(tail=tail)

    def weight(self) -> Tensor:
        """The weight as the layer computes with it."""
        dense = self.layer.weight
        with torch.no_grad():
            scales = dense.abs().flatten(1).amax(1).clamp(min=1e-12) / self.largest
        zeros = torch.zeros(len(scales), dtype=torch.int32, device=dense.device)
        # No weight reaches −128, but ONNX has no narrower range.
        return torch.fake_quantize_per_channel_affine(dense, scales, zeros, 0, -128, 127)

    def forward(self, inputs: Tensor) -> Tensor:
        """The layer on rounded inputs, its outputs rounded."""
        inputs, weight, bias = self.inputs(inputs), self.weight(), self.layer.bias
        if isinstance(self.layer, nn.Linear):
            found = nn.functional.linear(inputs, weight, bias)
        else:
            found = self.layer._conv_forward(inputs, weight, bias)
        rounded: Tensor = self.outputs(found)
        return rounded


def prepare_int8(
    model: nn.Module, batches: Sequence[Tensor], *, tail: float = 0.0, reduce_range: bool = True
) -> nn.Module:
    """A copy of a model whose linear layers and convolutions compute in 8 bits; ``model`` stays.

    Arguments:
        model: any module of such layers; others stay float.
        batches: calibration inputs, some hundreds of examples, without labels.
        tail: fraction of the activations that may be clipped on either side.
        reduce_range: weights from −63 to 63, of 7 bits, so that results are the same on every
            processor. On x86-64 without VNNI, onnxruntime adds products of 8-bit weights and
            activations in pairs of 16 bits, which is too narrow for the largest of them. Where
            such processors do not matter, False gives weights from −127 to 127.

    Returns a model in evaluation mode, to be exported, or trained on first. Raises DataError
    without batches, ModelError where there is nothing to quantise.
    """
    if not batches:
        raise DataError("there are no calibration batches to measure activations with")
    prepared = fold_into_convolutions(model, batches[0])
    kinds = nn.Linear | nn.Conv2d
    layers = {name: m for name, m in prepared.named_modules() if isinstance(m, kinds)}
    if not layers or "" in layers:
        raise ModelError("the model holds no linear layer or convolution to quantise")
    for name, layer in layers.items():
        prepared.set_submodule(name, Int8Layer(layer, tail=tail, reduce_range=reduce_range))
    with torch.no_grad():
        for batch in batches:
            prepared(batch)
    for module in prepared.modules():
        if isinstance(module, Observer):
            module.observing = False
    return prepared.eval()
