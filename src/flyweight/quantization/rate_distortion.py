"""A uniform grid with a dead zone, each weight on the level that is worth its bits."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from flyweight.compressed import CompressedTensor
from flyweight.errors import ModelError
from flyweight.modules.selection import nonzero_mask

__all__ = ["LARGEST_CODE", "check_loss_per_bit", "code_bits", "rdoq", "steps_at_loss_per_bit"]

LARGEST_CODE = 1 << 15  # whole multiples of a step, on either side of zero
_UNSEEN = 0.1  # of an occurrence: what a code costs that does not occur yet


def check_loss_per_bit(price: float) -> None:
    """Raise ModelError for what cannot be the price of a bit.

    Example:
        >>> check_loss_per_bit(1e-7)
    """
    if not 0 < price < math.inf:
        raise ModelError(f"the price of a bit is finite and above 0; found {price}")


def steps_at_loss_per_bit(sensitivities: Mapping[str, float], price: float) -> dict[str, float]:
    """The distance of levels of each tensor that costs least at one price of a bit for all.

    Arguments:
        sensitivities: what a squared error of 1 in a weight of the tensor costs, above 0: half the
            mean second derivative of the loss, say.
        price: what a bit costs, above 0, in the same unit.

    With steps that are small beside the weights, a step Δ has a mean squared error of Δ²/12 and a
    bit more where Δ is half as large; sensitivity·Δ²/12 + price·bits is least at
    Δ² = 6·price/(sensitivity·ln 2).

    Example:
        >>> steps = steps_at_loss_per_bit({"a": 1.0, "b": 4.0}, 0.01)
        >>> round(steps["a"], 3), round(steps["b"], 3)
        (0.294, 0.147)

    Source: Gish & Pierce 1968, "Asymptotically efficient quantizing"; Shoham & Gersho 1988 (one
    multiplier for all).
    """
    check_loss_per_bit(price)
    for name, sensitivity in sensitivities.items():
        if not 0 < sensitivity < math.inf:
            raise ModelError(
                f"the sensitivity of {name!r} is {sensitivity}, where it has to be finite and "
                "above 0; look for NaN in the calibration inputs and the loss"
            )
    return {
        name: math.sqrt(6 * price / (sensitivity * math.log(2)))
        for name, sensitivity in sensitivities.items()
    }


def code_bits(codes: Tensor, largest: int) -> Tensor:
    """Bits (float64) that a coder of order 0 spends on each code from −largest to largest.

    ``codes`` are whole numbers within that range, of any shape and type. rANS comes within a
    thousandth of this. A code that does not occur costs what a tenth of an occurrence would.

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
    price: float,
    mask: Tensor | None = None,
    weights: Tensor | float = 1.0,
    rounds: int = 20,
) -> CompressedTensor:
    """Put the non-zero weights on whole multiples of a step, as bits and error together cost least.

    Arguments:
        weight: of any shape and float type.
        step: distance of levels, above 0.
        price: squared error that a bit is worth; 0 takes the nearest level, more of it widens the
            dead zone in which weights become zero.
        mask: bool, of the shape of ``weight``, True for what is kept; without one, zeros are
            pruned.
        weights: how much the squared error of each weight counts, 0 or more, of the shape of
            ``weight`` or one number.
        rounds: of choosing codes at the bits they cost and counting them anew, at most; no round
            makes the sum of error and price times bits larger.

    A level is the mean of its weights. Raises ModelError for a step that is not above 0, a price or
    weights below 0, shapes that do not go together, numbers that are not finite, and where more
    levels are needed than a tensor can have.

    Example:
        >>> weight = torch.tensor([0.9, 1.1, 0.6, 0.1, -0.2, 0.0, 0.0, 0.0, 0.0])
        >>> rdoq(weight, step=1.0, price=0.3).dequantize().tolist()
        [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]

    Source: entropy-constrained quantisation, Chou, Lookabaugh & Gray 1989; of weights, Wiedemann
    et al. 2020, "DeepCABAC", §III.
    """
    if not 0 < step < math.inf or not 0 <= price < math.inf:
        raise ModelError(
            f"a step is above 0, a price 0 or more, and both finite; found {step} and {price}"
        )
    weight = weight.detach()
    kept = nonzero_mask(weight, mask)
    exact = torch.where(kept, weight.double(), 0.0)
    counted = torch.as_tensor(weights, device=weight.device).double()
    if counted.ndim and counted.shape != weight.shape:
        raise ModelError(
            f"the weights of the error have shape {tuple(counted.shape)}, not {tuple(weight.shape)}"
        )
    if not bool(((counted >= 0) & torch.isfinite(counted)).all()):
        raise ModelError("the weights of the error are finite, 0 or more")
    counted = counted.expand(weight.shape)
    codes = torch.round(exact / step)
    largest = int(codes.abs().max()) if codes.numel() else 0
    if largest > LARGEST_CODE:
        raise ModelError(f"a step of {step} needs {2 * largest + 1} levels; take a larger one")
    toward_zero = [codes, codes - codes.sign(), torch.zeros_like(codes)]
    for _ in range(rounds if price else 0):
        bits = code_bits(codes, largest)
        costs = torch.stack(
            [
                counted * (exact - choice * step) ** 2 + price * bits[(choice + largest).long()]
                for choice in toward_zero
            ]
        )
        best = costs.argmin(0)
        chosen = torch.stack(toward_zero).gather(0, best[None])[0]
        if torch.equal(chosen, codes):
            break
        codes = chosen
    return _at_means(weight, exact, counted, codes)


def _at_means(weight: Tensor, exact: Tensor, counted: Tensor, codes: Tensor) -> CompressedTensor:
    """Levels at the means of what has each code; 0 is a code of its own and stays 0."""
    used, places = torch.unique(codes, return_inverse=True)
    places = places.flatten()

    def total(of: Tensor) -> Tensor:
        return exact.new_zeros(used.numel()).index_add_(0, places, of.flatten())

    totals, sums = total(counted), total(exact * counted)
    plain, numbers = total(exact), torch.bincount(places, minlength=used.numel())
    means = torch.where(totals > 0, sums / totals, plain / numbers)
    means = torch.where(used == 0, torch.zeros_like(means), means)
    return CompressedTensor.from_values(means[places].view(weight.shape).to(weight.dtype))
