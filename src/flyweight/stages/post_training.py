"""Few bits without training: one price of a bit for all layers, a few calibration images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from flyweight.compressed import CompressedTensor
from flyweight.errors import DataError, ModelError
from flyweight.pruning import fisher_information
from flyweight.quantization import (
    code_bits,
    input_correlations,
    rate_distortion,
    round_second_order,
    steps_at_price,
)

__all__ = ["correct_biases_", "quantize_post_training_"]

_LEAST = 1e-3  # of the largest sensitivity: what a layer that hardly matters is taken to have
# Where weights still to come take up the error, a wider step with a narrower dead zone costs less
# than the step and the price of each weight alone; measured on validation images.
_WIDER = 1.2
_ROUNDS = 2  # of rounding at the bits that codes cost, and counting those anew


def quantize_post_training_(
    model: nn.Module,
    names: Iterable[str],
    inputs: Sequence[Tensor],
    *,
    price: float,
    second_order: bool = True,
) -> dict[str, CompressedTensor]:
    """Put the weights named on grids, as bits and loss together cost least. Changes ``model``.

    Every bit has the same price in all layers, in units of the loss: a layer's step follows from it
    and from how sharply the loss bends in its weights. Zeros stay zeros. Measure batch
    normalisation anew afterwards.

    Arguments:
        model: a classifier, logits N×K out.
        names: of weights of linear layers and two-dimensional convolutions.
        inputs: calibration batches, some hundreds of examples; the network's own answers stand for
            labels.
        price: loss that a bit is worth, above 0; the larger, the smaller the file. Try 1e-8 to
            1e-6 for 300,000 weights.
        second_order: lets the weights still to be rounded make up for the error so far.

    Returns symbols and levels by name. Raises ModelError for other layers, DataError without
    inputs.
    """
    weights = {name: model.get_parameter(name) for name in names}
    with torch.no_grad():
        answers = [model(batch).argmax(1) for batch in inputs]
    bends = fisher_information(model, weights, zip(inputs, answers, strict=True))
    sharp = {name: float(bend.mean()) / 2 for name, bend in bends.items()}
    least = _LEAST * max(sharp.values(), default=0.0) or 1.0
    sharp = {name: max(bend, least) for name, bend in sharp.items()}
    steps = steps_at_price(sharp, price)
    correlations = input_correlations(model, weights, inputs) if second_order else {}
    found: dict[str, CompressedTensor] = {}
    for name, weight in weights.items():
        worth = price / sharp[name]  # squared error of a weight that a bit is worth
        if second_order:
            tensor = _second_order(weight, correlations[name], _WIDER * steps[name], worth / 4)
        else:
            tensor = rate_distortion(weight, step=steps[name], price=worth / 2)
        found[name] = tensor
        weight.data.copy_(tensor.dequantize())
    return found


def _second_order(
    weight: Tensor, correlation: Tensor, step: float, price: float
) -> CompressedTensor:
    """Round column by column at the bits that codes cost; ``price`` is a weight's squared error."""
    tensor = rate_distortion(weight, step=step, price=price)
    largest = int(torch.round(weight.detach() / step).abs().max()) + 1 if weight.numel() else 1
    mean = float(correlation.diagonal().mean())
    for _ in range(_ROUNDS):
        codes = torch.round(tensor.dequantize() / step).clamp(-largest, largest)
        bits = code_bits(codes, largest)
        tensor = round_second_order(
            weight, correlation, step=step, bits=bits, price=mean * price / 2
        )
    return tensor


@torch.no_grad()
def correct_biases_(model: nn.Module, reference: nn.Module, batches: Iterable[Tensor]) -> None:
    """Shift biases so that each output of a layer has the mean that it had before quantisation.

    For the layers, linear and convolutional, that have a bias; from the first that runs to the
    last, as each changes what the next one sees. What a batch normalisation follows it corrects
    itself: `flyweight.batch_norm.reestimate_batch_norms_` comes first.

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
        found = _mean_outputs(model, [name], inputs)[name]
        bias = model.get_parameter(f"{name}.bias")
        bias.add_((wanted[name] - found).to(bias.dtype))


def _mean_outputs(
    model: nn.Module, names: Sequence[str], batches: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Mean of each output (of each channel) of the layers named, float64, as they run."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def gather(name: str, layer: nn.Module, outputs: Tensor) -> None:
        channels = -1 if isinstance(layer, nn.Linear) else 1
        rows = outputs.double().movedim(channels, -1).flatten(0, -2)
        sums[name] = sums.get(name, 0) + rows.sum(0)
        counts[name] = counts.get(name, 0) + len(rows)

    modes = {module: module.training for module in model.modules()}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda layer, _, outputs, name=name: gather(name, layer, outputs)
        )
        for name in names
    ]
    model.eval()
    try:
        for inputs in batches:
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    return {name: total / counts[name] for name, total in sums.items()}
