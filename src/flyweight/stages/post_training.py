"""Few bits without training: one price of a bit for all layers, a few calibration images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from flyweight.compressed import CompressedTensor
from flyweight.pruning import fisher_information
from flyweight.quantization import (
    code_bits,
    input_correlations,
    rate_distortion,
    round_second_order,
    steps_at_price,
)

__all__ = ["quantize_post_training_"]

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
