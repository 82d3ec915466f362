"""Rate-distortion optimal quantization (RDOQ): a uniform grid, levels chosen by error and bits."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from flyweight.compressed import CompressedTensor
from flyweight.errors import ModelError
from flyweight.modules import nonzero_mask

__all__ = ["LARGEST_CODE", "check_loss_per_bit", "code_bits", "rdoq", "steps_at_loss_per_bit"]

#: Largest integer multiple of a step, on either side of zero; a file holds 65,535 levels.
LARGEST_CODE = (1 << 15) - 1
_UNSEEN = 0.1  # of an occurrence: the count of a code that does not occur yet


def check_loss_per_bit(loss_per_bit: float) -> None:
    """Raise ModelError unless a loss per bit is finite and above 0.

    Example:
        >>> check_loss_per_bit(1e-7)
    """
    if not 0 < loss_per_bit < math.inf:
        raise ModelError(f"loss_per_bit is finite and above 0; found {loss_per_bit}")


def steps_at_loss_per_bit(
    sensitivities: Mapping[str, float], loss_per_bit: float
) -> dict[str, float]:
    """Compute the step of each tensor that minimizes loss plus bits, at one exchange rate for all.

    With steps Δ that are small beside the weights, the mean squared error is Δ²/12, and half the
    step takes one bit more; sensitivity·Δ²/12 + loss_per_bit·bits is least at
    Δ² = 6·loss_per_bit/(sensitivity·ln 2).

    Args:
        sensitivities: increase of the loss by a squared error of 1 in a weight of the tensor, above
            0: half the mean second derivative of the loss, say.
        loss_per_bit: increase of the loss that a bit is worth (λ), above 0.

    Raises:
        ModelError: a number is not finite or not above 0.

    Example:
        >>> steps = steps_at_loss_per_bit({"a": 1.0, "b": 4.0}, 0.01)
        >>> round(steps["a"], 3), round(steps["b"], 3)
        (0.294, 0.147)

    Source: Gish & Pierce 1968, "Asymptotically efficient quantizing"; Shoham & Gersho 1988 (one
    multiplier for all).
    """
    check_loss_per_bit(loss_per_bit)
    for name, sensitivity in sensitivities.items():
        if not 0 < sensitivity < math.inf:
            raise ModelError(
                f"the sensitivity of {name!r} is {sensitivity}, and has to be finite and above 0; "
                "look for NaN in the calibration data and the outputs of the model"
            )
    return {
        name: math.sqrt(6 * loss_per_bit / (sensitivity * math.log(2)))
        for name, sensitivity in sensitivities.items()
    }


def code_bits(codes: Tensor, largest: int) -> Tensor:
    """Compute the bits (float64) that a coder of order 0 spends on each code.

    rANS comes within a thousandth of this. A code that does not occur costs what a tenth of an
    occurrence would.

    Args:
        codes: integers from −largest to largest, of any shape and type.
        largest: K of the 2·K + 1 codes.

    Example:
        >>> [round(bits, 1) for bits in code_bits(torch.tensor([0, 0, 1, 1]), 1).tolist()]
        [5.4, 1.0, 1.0]

    Source: Shannon 1948, "A mathematical theory of communication", §6.
    """
    places = (codes.flatten() + largest).long()
    counts = torch.bincount(places, minlength=2 * largest + 1).double() + _UNSEEN
    return torch.log2(counts.sum() / counts)


def rdoq(
    weight: Tensor,
    *,
    step: float,
    loss_per_bit: float,
    mask: Tensor | None = None,
    weights: Tensor | float = 1.0,
    rounds: int = 20,
) -> CompressedTensor:
    """Quantize nonzero weights to multiples of a step so that error and bits together are least.

    A level is the mean of its weights.

    Args:
        weight: of any shape and float type.
        step: distance of levels, above 0.
        loss_per_bit: squared error that a bit is worth; with 0 each weight takes the nearest level,
            and the larger it is, the wider the dead zone in which weights become zero.
        mask: bool, of the shape of ``weight``, True for weights that are not pruned; default: those
            that are not zero.
        weights: factors of the squared error of each weight, 0 or more, of the shape of ``weight``
            or one number.
        rounds: at most, of choosing codes by their bits and counting them again; none increases
            the sum of error and loss_per_bit·bits.

    Raises:
        ModelError: the step is not above 0, loss_per_bit or weights are below 0, shapes do not fit,
            numbers are not finite, or a tensor cannot have that many levels.

    Example:
        >>> weight = torch.tensor([0.9, 1.1, 0.6, 0.1, -0.2, 0.0, 0.0, 0.0, 0.0])
        >>> rdoq(weight, step=1.0, loss_per_bit=0.3).dequantize().tolist()
        [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]

    Source: entropy-constrained quantization, Chou, Lookabaugh & Gray 1989; of weights, Wiedemann
    et al. 2020, "DeepCABAC", §III.
    """
    if not 0 < step < math.inf or not 0 <= loss_per_bit < math.inf:
        raise ModelError(
            "a step is above 0, loss_per_bit 0 or more, and both finite; "
            f"found {step} and {loss_per_bit}"
        )
    weight = weight.detach()
    kept = nonzero_mask(weight, mask)
    exact = torch.where(kept, weight.double(), 0.0)
    factors = torch.as_tensor(weights, device=weight.device).double()
    if factors.ndim and factors.shape != weight.shape:
        raise ModelError(
            f"the weights of the error have shape {tuple(factors.shape)}, not {tuple(weight.shape)}"
        )
    if not bool(((factors >= 0) & torch.isfinite(factors)).all()):
        raise ModelError("the weights of the error are finite, 0 or more")
    factors = factors.expand(weight.shape)
    codes = torch.round(exact / step)
    largest = int(codes.abs().max()) if codes.numel() else 0
    if largest > LARGEST_CODE:
        raise ModelError(f"a step of {step} needs {2 * largest + 1} levels; give a larger one")
    choices = torch.stack([codes, codes - codes.sign(), torch.zeros_like(codes)])
    errors = factors * (exact - choices * step) ** 2
    places = (choices + largest).long()
    for _ in range(rounds if loss_per_bit else 0):
        costs = errors + loss_per_bit * code_bits(codes, largest)[places]
        chosen = choices.gather(0, costs.argmin(0)[None])[0]
        if torch.equal(chosen, codes):
            break
        codes = chosen
    return _at_means(weight, exact, factors, codes)


def _at_means(weight: Tensor, exact: Tensor, factors: Tensor, codes: Tensor) -> CompressedTensor:
    """Levels at the means of the weights of each code; code 0 stays 0."""
    used, places = torch.unique(codes, return_inverse=True)
    places = places.flatten()

    def total(of: Tensor) -> Tensor:
        return exact.new_zeros(used.numel()).index_add_(0, places, of.flatten())

    totals, sums = total(factors), total(exact * factors)
    plain, numbers = total(exact), torch.bincount(places, minlength=used.numel())
    means = torch.where(totals > 0, sums / totals, plain / numbers)
    means = torch.where(used == 0, torch.zeros_like(means), means)
    return CompressedTensor.from_values(means[places].view(weight.shape).to(weight.dtype))
