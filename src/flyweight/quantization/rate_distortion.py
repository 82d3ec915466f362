"""Rate-distortion optimal quantization (RDOQ): a uniform grid, levels chosen by error and bits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from flyweight import _native
from flyweight.compressed import CompressedTensor
from flyweight.errors import ModelError
from flyweight.modules import nonzero_mask

__all__ = [
    "LARGEST_CODE",
    "bits_of_counts",
    "check_loss_per_bit",
    "code_bits",
    "rdoq",
    "rdoq_codes",
    "steps_at_loss_per_bit",
    "tensor_of_codes",
]

#: Largest integer multiple of a step, on either side of zero; a file holds 65,535 levels.
LARGEST_CODE = (1 << 15) - 1
_PIECE = 1 << 20  # weights that are in memory as float64 at a time
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
    return bits_of_counts(_counts(codes, largest))


def bits_of_counts(counts: Tensor) -> Tensor:
    """Compute the bits that a coder of order 0 spends on each code, from how often it occurs."""
    counts = counts.double() + _UNSEEN
    return torch.log2(counts.sum() / counts)


def _counts(codes: Tensor, largest: int) -> Tensor:
    """How often each code from −largest to largest occurs, int64."""
    counts = torch.zeros(2 * largest + 1, dtype=torch.int64, device=codes.device)
    for part in torch.split(codes.flatten(), _PIECE):
        counts += torch.bincount((part + largest).long(), minlength=2 * largest + 1)
    return counts


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
    factors = torch.as_tensor(weights, device=weight.device).double()
    if factors.ndim and factors.shape != weight.shape:
        raise ModelError(
            f"the weights of the error have shape {tuple(factors.shape)}, not {tuple(weight.shape)}"
        )
    if not bool(((factors >= 0) & torch.isfinite(factors)).all()):
        raise ModelError("the weights of the error are finite, 0 or more")
    codes, largest = rdoq_codes(
        weight, step=step, loss_per_bit=loss_per_bit, kept=kept, factors=factors, rounds=rounds
    )
    means = torch.zeros(3, 2 * largest + 1, dtype=torch.float64)
    numbers = torch.zeros(2 * largest + 1, dtype=torch.float64)
    for part, exact, some in _pieces(weight, kept, factors):
        places = codes.flatten()[part].long() + largest
        size = 2 * largest + 1
        numbers += torch.bincount(places, minlength=size)
        assert some is not None
        for row, values in enumerate((some, exact * some, exact)):
            means[row] += torch.bincount(places, values, minlength=size)
    totals, sums, plain = means
    levels = torch.where(totals > 0, sums / totals, plain / numbers)
    levels[largest] = 0
    return tensor_of_codes(codes, largest, levels, weight)


def rdoq_codes(
    weight: Tensor,
    *,
    step: float,
    loss_per_bit: float,
    kept: Tensor | None = None,
    factors: Tensor | None = None,
    rounds: int = 20,
) -> tuple[Tensor, int]:
    """Return the codes that `rdoq` chooses, int32 on the CPU, and the largest that it may choose.

    Raises:
        ModelError: the tensor cannot have that many levels.
    """
    kept = nonzero_mask(weight, None) if kept is None else kept
    most = 0.0
    for _, exact, _ in _pieces(weight, kept, None):
        most = max(most, float(exact.abs().max()))
    largest = round(most / step)
    if largest > LARGEST_CODE:
        raise ModelError(f"a step of {step} needs {2 * largest + 1} levels; give a larger one")
    codes = torch.zeros(weight.shape, dtype=torch.int32)
    flat = codes.view(-1).numpy()
    bits, worth = torch.zeros(2 * largest + 1, dtype=torch.float64), 0.0
    for number in range(rounds + 1 if loss_per_bit else 1):
        changed = 0
        for part, exact, some in _pieces(weight, kept, factors):
            given = None if some is None else some.numpy()
            changed += _native.rdoq((exact / step).numpy(), given, bits.numpy(), flat[part], worth)
        if number and not changed:
            break
        bits, worth = code_bits(codes, largest), loss_per_bit / step**2
    return codes, largest


def tensor_of_codes(
    codes: Tensor, largest: int, levels: Tensor | float, weight: Tensor
) -> CompressedTensor:
    """Return the tensor of codes from −largest to largest.

    Args:
        codes: whole numbers of any type, on the CPU.
        largest: K of the 2·K + 1 codes.
        levels: the value of each code from −K to K, of which those that do not occur may be NaN;
            or the step that codes are multiples of.
        weight: gives dtype and device.

    Example:
        >>> tensor_of_codes(torch.tensor([-1, 0, 1]), 1, 0.5, torch.ones(3)).dequantize().tolist()
        [-0.5, 0.0, 0.5]
    """
    used = _counts(codes, largest) > 0
    if not isinstance(levels, Tensor):
        levels = torch.arange(-largest, largest + 1, dtype=torch.float64) * levels
    values = torch.where(used, levels, 0.0).to(weight.dtype)
    table = CompressedTensor.from_values(values)
    symbols = torch.empty(codes.shape, dtype=torch.int32)
    flat = symbols.view(-1)
    for start in range(0, flat.numel(), _PIECE):
        part = slice(start, start + _PIECE)
        flat[part] = table.symbols[codes.reshape(-1)[part].long() + largest]
    return CompressedTensor(symbols.to(weight.device), table.levels.to(weight.device))


def _pieces(
    weight: Tensor, kept: Tensor, factors: Tensor | None
) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
    """Parts of a weight, as float64 on the CPU with zeros where it is pruned, and their factors."""
    flat, mask = weight.detach().reshape(-1), kept.reshape(-1)
    weights = None if factors is None or not factors.ndim else factors.reshape(-1)
    for start in range(0, flat.numel(), _PIECE):
        part = slice(start, start + _PIECE)
        exact = torch.where(mask[part], flat[part].double(), 0.0).cpu()
        some = factors if weights is None else weights[part]
        yield part, exact, None if some is None else some.cpu().expand(exact.shape).contiguous()
