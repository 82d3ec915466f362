"""Few bits without training: one price of a bit for all layers, a few calibration images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flyweight.batch_norm import batch_norm_drift, reestimate_batch_norms_
from flyweight.compressed import CompressedTensor
from flyweight.errors import ModelError
from flyweight.modules.checks import check_float
from flyweight.batches import evaluating
from flyweight.modules import check_plain
from flyweight.pruning import fisher_information, reached_weights
from flyweight.modules import weights_named
from flyweight.quantization.rate_distortion import (
    LARGEST_CODE,
    check_loss_per_bit,
    code_bits,
    rdoq,
    steps_at_loss_per_bit,
)
from flyweight.quantization.gptq_rounding import input_correlations, gptq

__all__ = ["quantize_post_training_"]

# Of the largest sensitivity, what a layer that hardly matters is taken to have: by Fisher
# information, and as measured.
_LEAST, _LEAST_MEASURED = 1e-3, 1e-6
# Where weights still to come take up the error, a wider step with a narrower dead zone costs less
# than the step and the price of each weight alone; measured on validation images.
_WIDER = 1.2
_SWEEPS = 2  # over the columns after the first
_STEP_BITS = 4  # of a step's mantissa after the first
_ROUNDS = 2  # of rounding at the bits that codes cost, and counting those anew


def quantize_post_training_(
    model: nn.Module,
    names: Iterable[str],
    inputs: Sequence[Tensor],
    *,
    price: float,
    second_order: bool = True,
    measured: bool = True,
) -> dict[str, CompressedTensor]:
    """Put the weights named on grids, as bits and loss together cost least. Changes ``model``.

    Every bit has the same price in all layers, in units of the loss: a layer's step follows from it
    and from how much its error costs. Zeros stay zeros. Measure batch normalisation anew
    afterwards, by `flyweight.batch_norm.reestimate_batch_norms_` with the drift of the network
    before.

    Arguments:
        model: a classifier, logits N×K out with K of 2 and more; runs in evaluation mode.
        names: of weights. Those without elements, of a type that is no float, and those that no
            example's answer depends on stay as they are, and out of what is returned.
        inputs: calibration batches, some hundreds of examples; the network's own answers stand for
            labels.
        price: loss that a bit is worth, above 0; the larger, the smaller the file. Try 1e-8 to
            1e-6 for 300,000 weights.
        second_order: lets the weights still to be rounded make up for the error so far, in the
            layers whose inputs `input_correlations` sees; in others each is rounded alone.
        measured: how much a layer matters is told by the answers of the network with that layer
            alone quantised, one run over the inputs and a few for each; otherwise by Fisher
            information alone.

    Returns symbols and levels by name.

    Raises ModelError for names that the model lacks, where no weight is left to quantise, for a
    price that is not above 0 or needs too many levels, answers that are no logits or whose
    divergence is not finite, and a model that another stage works on; DataError without inputs and
    for inputs that are empty, not finite, or too few for batch normalisation.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2))
        >>> weight = torch.tensor([[0.9, -1.1], [0.0, 0.5]])
        >>> _ = model.load_state_dict({"0.weight": weight, "0.bias": torch.zeros(2)})
        >>> inputs = [torch.tensor([[1.0, 0.0], [0.0, 1.0]])]
        >>> found = quantize_post_training_(model, ["0.weight"], inputs, price=1e-4)
        >>> torch.equal(found["0.weight"].dequantize(), model[0].weight)
        True
        >>> (model[0].weight == 0).tolist()
        [[False, False], [True, False]]

    Sources: one multiplier for all layers, Shoham & Gersho 1988; rounding, Frantar et al. 2023,
    "GPTQ", §3. The sum of both, with Fisher information for the loss, is flyweight's own.
    """
    check_loss_per_bit(price)
    inputs = [*inputs]
    check_float(model)
    named = weights_named(model, names)
    check_plain(model, named)
    if not named:
        raise ModelError("no weights were named to quantise; select_weights finds them")
    with torch.no_grad(), evaluating(model):
        answers = [_logits(model, batch) for batch in inputs]
    answered = [(batch, answer.argmax(1)) for batch, answer in zip(inputs, answers, strict=True)]
    floats = {name: w for name, w in named.items() if w.is_floating_point() and w.numel()}
    weights = reached_weights(model, floats, answered) if floats else {}
    if not weights:
        raise ModelError(
            "the answers of the model depend on none of the weights named, so nothing tells how to "
            "quantise them; name others"
        )
    bends = fisher_information(model, weights, answered)
    sharp = _floored({name: float(bend.mean()) / 2 for name, bend in bends.items()}, _LEAST)
    correlations = input_correlations(model, weights, inputs) if second_order else {}

    def at_price() -> dict[str, CompressedTensor]:
        steps = steps_at_loss_per_bit(sharp, price)
        for name in correlations:
            steps[name] = _short(_WIDER * steps[name])
        for name, weight in weights.items():
            codes = float(weight.detach().abs().max()) / steps[name]
            if round(codes) > LARGEST_CODE:
                raise ModelError(
                    f"at a price of {price} tensor {name!r} needs {2 * codes + 1:.3g} levels, and "
                    f"{2 * LARGEST_CODE + 1} are the most; take a larger price"
                )
        return {
            name: _rounded(weight, correlations.get(name), steps[name], price / sharp[name])
            for name, weight in weights.items()
        }

    found = at_price()
    if measured:
        errors = {
            name: _error(weights[name], correlations.get(name), found[name]) for name in found
        }
        losses = _losses_alone(model, found, inputs, answers)
        told = {n: losses[n] / errors[n] if errors[n] else sharp[n] for n in found}
        sharp = _floored(told, _LEAST_MEASURED)
        found = at_price()
    for name, tensor in found.items():
        weights[name].data.copy_(tensor.dequantize())
    return found


def _logits(model: nn.Module, batch: Tensor) -> Tensor:
    answer = model(batch)
    if not isinstance(answer, Tensor):
        raise ModelError(
            f"the model gives a {type(answer).__name__}, not a tensor of logits; wrap it in a "
            "module that gives these alone"
        )
    if answer.ndim != 2 or len(answer) != len(batch) or answer.shape[1] < 2:
        raise ModelError(
            f"the model gives shape {tuple(answer.shape)} for {len(batch)} examples, and what "
            "quantisation costs is told by logits N×K of two classes or more; wrap it in a module "
            "that gives these"
        )
    return answer


def _floored(sharp: dict[str, float], share: float) -> dict[str, float]:
    least = share * max(sharp.values()) or 1.0
    return {name: max(bend, least) for name, bend in sharp.items()}


def _short(step: float) -> float:
    """The nearest number of so few digits that its multiples are exact in float16."""
    mantissa, exponent = math.frexp(step)
    scale = 1 << (_STEP_BITS + 1)
    return math.ldexp(round(mantissa * scale) / scale, exponent)


def _rounded(
    weight: Tensor, correlation: Tensor | None, step: float, worth: float
) -> CompressedTensor:
    """On a grid; a bit is worth so much squared error of a weight."""
    if correlation is None:
        return rdoq(weight, step=step, price=worth / 2)
    worth = worth / 4
    tensor = rdoq(weight, step=step, price=worth)
    largest = int(torch.round(weight.detach() / step).abs().max()) + 1 if weight.numel() else 1
    mean = float(correlation.diagonal(dim1=-2, dim2=-1).mean())
    for _ in range(_ROUNDS):
        codes = torch.round(tensor.dequantize() / step).clamp(-largest, largest)
        bits = code_bits(codes, largest)
        tensor = gptq(
            weight, correlation, step=step, bits=bits, price=mean * worth / 2, sweeps=_SWEEPS
        )
    return tensor


def _error(weight: Tensor, correlation: Tensor | None, tensor: CompressedTensor) -> float:
    """Squared error of the weight, as the layer's output has it where inputs correlate."""
    error = (weight.detach() - tensor.dequantize()).flatten(1).double()
    if correlation is None:
        return float(error.square().sum())
    error = error.view(*correlation.shape[:-2], -1, error.shape[1])  # rows of each group
    mean = correlation.diagonal(dim1=-2, dim2=-1).mean()
    if not mean:  # no input ever was other than zero, so no output is wrong
        return 0.0
    return float(((error @ correlation) * error).sum() / mean)


@torch.no_grad()
def _losses_alone(
    model: nn.Module,
    found: dict[str, CompressedTensor],
    inputs: Sequence[Tensor],
    answers: Sequence[Tensor],
) -> dict[str, float]:
    """Mean Kullback-Leibler divergence of the answers where one weight alone is quantised."""
    drift = batch_norm_drift(model, inputs)
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
    losses = {}
    for name, tensor in found.items():
        weight = model.get_parameter(name)
        before = weight.detach().clone()
        try:
            weight.data.copy_(tensor.dequantize())
            reestimate_batch_norms_(model, inputs, drift=drift)
            with evaluating(model):
                told = [
                    float(
                        F.kl_div(
                            _logs(model(batch)), _logs(wanted), log_target=True, reduction="sum"
                        )
                    )
                    for batch, wanted in zip(inputs, answers, strict=True)
                ]
            loss = sum(told) / sum(len(answer) for answer in answers)
            if not math.isfinite(loss):
                raise ModelError(
                    f"with tensor {name!r} alone quantised the answers have a divergence of {loss} "
                    "from those before; let the model give finite logits, -1e4 in place of -inf say"
                )
            losses[name] = max(0.0, loss)  # below 0 by rounding alone
        finally:
            weight.data.copy_(before)
            for key, buffer in model.named_buffers():
                buffer.copy_(statistics[key])
    return losses


def _logs(logits: Tensor) -> Tensor:
    return logits.double().log_softmax(1)
