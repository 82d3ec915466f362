"""Layers that compute with weights and activations of 8 bits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flyweight.errors import DataError, ModelError
from flyweight.int8.folding import added_to, fold_into_convolutions
from flyweight.int8.observer import Observer
from flyweight.modules.checks import IntegerLayer, check_float

__all__ = ["Int8Layer", "prepare_int8"]

_LEAST = 1e-12  # scale of a layer without weights other than zero
_LEAST_SHARE = 2.0**-16  # of the largest scale of a layer
_LARGEST_BIAS = 2.0**30  # in levels


class Int8Layer(IntegerLayer):
    """A linear layer or convolution with int8 weights, inputs and outputs, in simulation.

    Weights are symmetric, −63 to 63 times a scale for each output, or −127 to 127 without
    ``reduce_range``. The gradient goes straight through, and the layer can be trained on. What is
    zero in ``layer.weight`` when it is made stays so: it gets no gradient, so that an optimiser
    leaves it 0, and whatever is written there, `weight` has 0.

    Attributes:
        layer: the layer with the weight as it is trained, in floats.
        mask: bool, of the shape of the weight, False for what is pruned.
        largest: 63 or 127, the largest level of a weight; part of the state.

    Example:
        >>> layer = nn.Linear(3, 1, bias=False)
        >>> _ = layer.load_state_dict({"weight": torch.tensor([[6.3, 0.0, 0.52]])})
        >>> Int8Layer(layer).weight().tolist()
        [[6.300000190734863, 0.0, 0.5]]

    Source: Jacob et al. 2018, "Quantization and training of neural networks for efficient
    integer-arithmetic-only inference", §3; a scale for each output: Krishnamoorthi 2018,
    "Quantizing deep convolutional networks for efficient inference".
    """

    mask: Tensor

    def __init__(
        self, layer: nn.Linear | nn.Conv2d, *, tail: float = 0.0, reduce_range: bool = True
    ) -> None:
        super().__init__()
        self.layer = layer
        self.largest = 63 if reduce_range else 127
        self.inputs = Observer(tail=tail)
        self.outputs = Observer(tail=tail)
        self.register_buffer("mask", layer.weight.detach() != 0)

    def get_extra_state(self) -> Tensor:
        """The largest level of a weight, which the ranges of the outputs go with."""
        return torch.tensor(self.largest)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the largest level of a weight from a state."""
        self.largest = int(state)

    def _kept(self) -> Tensor:
        # Unlike `straight_through`, this can be traced for ONNX.
        return torch.where(self.mask, self.layer.weight, 0.0)

    @torch.no_grad()
    def scales(self) -> Tensor:
        """Distance of two levels of the weights of each output, above 0.

        Runtimes round a bias to whole multiples of this times the scale of the inputs, in 32 bits.
        So no scale is below 2⁻¹⁶ of the largest of the layer, nor so small that the bias of its
        output is beyond 2³⁰ of them: a filter that is zero, or next to it, has a bias all the same.
        """
        scales = self._kept().abs().flatten(1).amax(1) / self.largest
        scales = scales.maximum(scales.max() * _LEAST_SHARE)
        if self.layer.bias is not None and not self.inputs.observing:
            scales = scales.maximum(self.layer.bias.abs() / (self.inputs.scale * _LARGEST_BIAS))
        return scales.clamp(min=_LEAST)

    def weight(self) -> Tensor:
        """The weight as the layer computes with it."""
        dense, scales = self._kept(), self.scales()
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


def _layers(model: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """The layers to quantise, by each of their names; refuses what 8 bits cannot do."""
    kinds = nn.Linear | nn.Conv2d
    every = model.named_modules(remove_duplicate=False)
    layers = {name: m for name, m in every if isinstance(m, kinds)}
    if not layers:
        raise ModelError("the model holds no linear layer or convolution to quantise")
    if "" in layers:
        raise ModelError(f"the model is a {type(model).__name__} itself; put it into nn.Sequential")
    for name, layer in layers.items():
        if nn.parameter.is_lazy(layer.weight) or not layer.weight.numel():
            raise ModelError(
                f"layer {name!r} has no weights; take it out, or run a batch first if it is lazy"
            )
        if layer.weight.dtype != torch.float32:
            raise ModelError(
                f"layer {name!r} has weights of {layer.weight.dtype}, and 8 bits are simulated in "
                "torch.float32; call float() on the model"
            )
        if added := added_to(layer):
            raise ModelError(
                f"layer {name!r} has {added}, which would be lost in 8 bits; take that off, or "
                "move it into a module around a plain layer of torch"
            )
    return layers


def prepare_int8(
    model: nn.Module, batches: Sequence[Tensor], *, tail: float = 0.0, reduce_range: bool = True
) -> nn.Module:
    """A copy of a model whose linear layers and convolutions compute in 8 bits; ``model`` stays.

    Arguments:
        model: any module that calls such layers, and gives one tensor; other layers stay float.
            What reads their weights itself is refused: nn.MultiheadAttention, and so
            nn.TransformerEncoderLayer. So are such layers with forward hooks or, in a subclass, a
            forward of their own: what they add would be lost.
        batches: calibration inputs, some hundreds of examples, without labels, which reach every
            such layer.
        tail: fraction of the activations that may be clipped on either side.
        reduce_range: weights from −63 to 63, of 7 bits, so that results are the same on every
            processor. On x86-64 without VNNI, onnxruntime adds products of 8-bit weights and
            activations in pairs of 16 bits, which is too narrow for the largest of them. Where
            such processors do not matter, False gives weights from −127 to 127.

    Returns a model in evaluation mode, to be exported, or trained on first; weights that are zero
    stay so.

    Raises DataError without batches, for batches that are empty or not finite, and where none
    reaches a layer; ModelError where there is nothing to quantise, a layer has no weights, weights
    that are not float32, forward hooks or a forward of its own, the model cannot be run, batch
    normalisation cannot be folded, another stage is not over, or the model is one that was prepared
    before.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 2), nn.ReLU())
        >>> [type(layer).__name__ for layer in prepare_int8(model, [torch.randn(8, 4)])]
        ['Int8Layer', 'ReLU']

    Source: Jacob et al. 2018, "Quantization and training of neural networks for efficient
    integer-arithmetic-only inference", §3.
    """
    check_float(model)
    batches = [*batches]
    _layers(model)  # refused before it runs
    prepared = fold_into_convolutions(model, batches[0])
    layers = _layers(prepared)
    made = {
        layer: Int8Layer(layer, tail=tail, reduce_range=reduce_range) for layer in layers.values()
    }
    for name, layer in layers.items():
        prepared.set_submodule(name, made[layer])
    with torch.no_grad():
        for number, batch in enumerate(batches):
            try:
                prepared(batch)
            except (AttributeError, TypeError) as error:
                if number:
                    raise
                # Before its layers were replaced, the model could run on the first batch.
                raise ModelError(
                    "the model does not run with layers of 8 bits: some module, such as "
                    "nn.MultiheadAttention, reads the weights of a layer instead of calling it "
                    f"({error})"
                ) from error
    for name, layer in layers.items():
        if not made[layer].inputs.batches:
            raise DataError(
                f"no calibration batch reaches layer {name!r}, so its activations have no range; "
                "give batches that do, or take the layer out if nothing does"
            )
    for module in prepared.modules():
        if isinstance(module, Observer):
            module.observing = False
    return prepared.eval()
