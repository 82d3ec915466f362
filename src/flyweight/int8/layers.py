"""Layers that simulate weights and activations of 8 bits."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from flyweight.batches import Batch, Batches, check_batch, run_model
from flyweight.errors import DataError, ModelError
from flyweight.int8.folding import added_to, fold_into_convolutions
from flyweight.int8.observer import Observer
from flyweight.modules import IntegerLayer, check_float

__all__ = ["Int8Layer", "prepare_int8"]

_LEAST = 1e-12  # scale of a layer without weights other than zero
_LEAST_SHARE = 2.0**-16  # of the largest scale of a layer
_LARGEST_BIAS = 2.0**30  # in levels


class Int8Layer(IntegerLayer):
    """Simulate a linear layer or convolution with int8 weights, inputs and outputs.

    Weights are symmetric, −63 to 63 times a scale for each output, or −127 to 127 without
    ``reduce_range``. The gradient goes straight through, so that the layer can be trained. Weights
    that are zero stay zero: they get no gradient, and `weight` returns 0 for them.

    Args:
        layer: the float layer; zeros in its weight are pruned.
        tail: of its `Observer` instances.
        reduce_range: as of `prepare_int8`.

    Attributes:
        layer: the layer with the float weight that is trained.
        mask: bool, of the shape of the weight, False for pruned weights.
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
        """Return the largest level of a weight, which belongs to the ranges of the outputs."""
        return torch.tensor(self.largest)

    def set_extra_state(self, state: Tensor) -> None:
        """Set the largest level of a weight from a state."""
        self.largest = int(state)

    def _kept(self) -> Tensor:
        # Unlike `straight_through`, this can be traced for ONNX.
        return torch.where(self.mask, self.layer.weight, 0.0)

    @torch.no_grad()
    def scales(self) -> Tensor:
        """Return the distance between two levels of the weights of each output, above 0.

        Runtimes round a bias to multiples of this times the scale of the inputs, in 32 bits. So no
        scale is below 2⁻¹⁶ of the largest of the layer, nor so small that the bias of its output
        exceeds 2³⁰ of them: a filter of zeros may have a bias.
        """
        scales = self._kept().abs().flatten(1).amax(1) / self.largest
        scales = scales.maximum(scales.max() * _LEAST_SHARE)
        if self.layer.bias is not None and not self.inputs.observing:
            scales = scales.maximum(self.layer.bias.abs() / (self.inputs.scale * _LARGEST_BIAS))
        return scales.clamp(min=_LEAST)

    def weight(self) -> Tensor:
        """Return the quantized weight."""
        dense, scales = self._kept(), self.scales()
        zeros = torch.zeros(len(scales), dtype=torch.int32, device=dense.device)
        # No weight reaches −128, but ONNX has no narrower range.
        return torch.fake_quantize_per_channel_affine(dense, scales, zeros, 0, -128, 127)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the rounded outputs for rounded inputs."""
        inputs, weight, bias = self.inputs(inputs), self.weight(), self.layer.bias
        if isinstance(self.layer, nn.Linear):
            found = nn.functional.linear(inputs, weight, bias)
        else:
            found = self.layer._conv_forward(inputs, weight, bias)
        rounded: Tensor = self.outputs(found)
        return rounded


def _layers(model: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """The layers to quantize, by each of their names; raises for those that 8 bits cannot do."""
    kinds = nn.Linear | nn.Conv2d
    every = model.named_modules(remove_duplicate=False)
    layers = {name: m for name, m in every if isinstance(m, kinds)}
    if not layers:
        raise ModelError(
            "the model has no linear layer or 2-D convolution, so there is nothing to quantize"
        )
    if "" in layers:
        raise ModelError(f"the model is a {type(model).__name__} itself; put it into nn.Sequential")
    for name, layer in layers.items():
        if nn.parameter.is_lazy(layer.weight) or not layer.weight.numel():
            raise ModelError(
                f"layer {name!r} has no weights; remove it, or run a batch first if it is lazy"
            )
        if layer.weight.dtype != torch.float32:
            raise ModelError(
                f"layer {name!r} has weights of {layer.weight.dtype}, and 8 bits are simulated in "
                "torch.float32; call float() on the model"
            )
        if added := added_to(layer):
            raise ModelError(
                f"layer {name!r} has {added}, which would be lost in 8 bits; remove that, or "
                "move it into a module around a plain layer of torch"
            )
    return layers


def prepare_int8(
    model: nn.Module, batches: Batches, *, tail: float = 0.0, reduce_range: bool = True
) -> nn.Module:
    """Quantize linear layers and 2-D convolutions to 8 bits, weights and activations.

    Args:
        model: any module that calls such layers; other layers stay float. It is not changed.
            Modules that read the weights of these layers are refused, such as
            nn.MultiheadAttention and nn.TransformerEncoderLayer, and so are layers with forward
            hooks or a forward of their own, which would be lost.
        batches: calibration batches of some hundreds of examples, which reach every such layer.
        tail: fraction of the activations that may be clipped on either side.
        reduce_range: weights from −63 to 63, 7 bits, so that results are the same on every
            processor. On x86-64 without VNNI, onnxruntime adds products of 8-bit weights and
            activations in pairs of 16 bits, which overflow for the largest of them. Where such
            processors do not matter, False gives weights from −127 to 127.

    Returns:
        A model in evaluation mode, to be exported, or to be trained first. Zeros stay zeros.

    Raises:
        DataError: there are no batches, one is empty or not finite, or none reaches a layer.
        ModelError: there is nothing to quantize; a layer cannot be quantized; the model cannot be
            run; batch normalization cannot be folded; another stage is not finalized; or the model
            is a prepared one.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 2), nn.ReLU())
        >>> [type(layer).__name__ for layer in prepare_int8(model, [torch.randn(8, 4)])]
        ['Int8Layer', 'ReLU']

    Source: Jacob et al. 2018, "Quantization and training of neural networks for efficient
    integer-arithmetic-only inference", §3.
    """
    check_float(model)
    data = _checked(batches)
    _layers(model)  # raises before the model runs
    prepared = fold_into_convolutions(model, data[0])
    layers = _layers(prepared)
    made = {
        layer: Int8Layer(layer, tail=tail, reduce_range=reduce_range) for layer in layers.values()
    }
    for name, layer in layers.items():
        prepared.set_submodule(name, made[layer])
    with torch.no_grad():
        for number, batch in enumerate(data):
            try:
                run_model(prepared, batch)
            except (AttributeError, TypeError) as error:
                if number:
                    raise
                # Before its layers were replaced, the model could run on the first batch.
                raise ModelError(
                    "the model does not run with layers of 8 bits, since some module, such as "
                    "nn.MultiheadAttention, reads the weights of a layer instead of calling it "
                    f"({error}); replace that module"
                ) from error
    for name, layer in layers.items():
        if not made[layer].inputs.batches:
            raise DataError(
                f"no calibration batch reaches layer {name!r}, so its activations have no range; "
                "give batches that do, or remove the layer if nothing does"
            )
    for module in prepared.modules():
        if isinstance(module, Observer):
            module.observing = False
    return prepared.eval()


def _checked(batches: Batches) -> list[Batch]:
    if isinstance(batches, Tensor | Mapping | str):
        raise DataError(
            f"batches is a {type(batches).__name__}; give a list of batches or a loader"
        )
    found = [*batches]
    if not found:
        raise DataError("batches is empty; give at least one calibration batch")
    for batch in found:
        check_batch(batch, "batches")
    return found
