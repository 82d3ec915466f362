"""Error against bits for several schemes, on the same weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from flyweight.coding import entropy
from flyweight.compressed import CompressedTensor
from flyweight.errors import ModelError
from flyweight.quantization.fixed_point import SCHEMES, fixed_point
from flyweight.quantization.rate_distortion import rate_distortion
from flyweight.quantization.sharing import share

__all__ = ["SchemeError", "compare_schemes"]

_FINEST = 4.0  # times the root mean square: the step that takes about b bits is this times 2^−b


@dataclass(frozen=True)
class SchemeError:
    """What a scheme makes of weights at a number of bits.

    Attributes:
        scheme: its name, for a legend.
        bits: of a value, before entropy coding.
        bits_per_weight: order-0 entropy of what each weight becomes, zeros too; of all tensors.
        error: squared error over squared weights of a tensor, in the mean over all weights.
    """

    scheme: str
    bits: int
    bits_per_weight: float
    error: float


def compare_schemes(
    weights: Mapping[str, Tensor], *, bits: Sequence[int] = (2, 3, 4, 5, 6)
) -> list[SchemeError]:
    """Quantise the non-zero weights of each tensor by every scheme that needs no training.

    These are k-means (the optimum), fixed point of three kinds, and a uniform grid by rate and
    distortion, of a step that takes about as many bits. Codebooks and ranges, which are few bytes
    beside the weights of large tensors, are left out; so is what a context coder saves.

    Raises ModelError without weights, and for bits that a scheme cannot have.

    Example:
        >>> found = compare_schemes({"weight": torch.linspace(-1, 1, 1000)}, bits=[4])
        >>> [(point.scheme, round(point.bits_per_weight, 1)) for point in found[:3]]
        [('k-means', 4.0), ('asymmetric', 4.0), ('narrow', 3.9)]
    """
    if not weights:
        raise ModelError("there are no weights to quantise")
    return [
        _measured(scheme, some, weights, quantize)
        for scheme, of_bits in _schemes().items()
        for some in bits
        for quantize in [partial(of_bits, some)]
    ]


def _schemes() -> dict[str, Callable[[int, Tensor], CompressedTensor]]:
    return {
        "k-means": lambda bits, weight: share(weight, bits=bits, init="optimal"),
        **{
            scheme: lambda bits, weight, scheme=scheme: fixed_point(  # type: ignore[misc]
                weight, bits=bits, scheme=scheme
            )
            for scheme in SCHEMES
        },
        "rate and distortion": _by_price,
    }


def _by_price(bits: int, weight: Tensor) -> CompressedTensor:
    step = _FINEST * 2.0**-bits * max(float(weight.detach().double().square().mean().sqrt()), 1e-30)
    return rate_distortion(weight, step=step, price=step**2 * 0.1155)  # ln 2 / 6


def _measured(
    scheme: str,
    bits: int,
    weights: Mapping[str, Tensor],
    quantize: Callable[[Tensor], CompressedTensor],
) -> SchemeError:
    coded = lost = total = 0.0
    for weight in weights.values():
        found = quantize(weight)
        exact = weight.detach().double()
        squares = float((found.dequantize().double() - exact).square().sum())
        lost += weight.numel() * squares / max(float(exact.square().sum()), 1e-300)
        coded += entropy(torch.bincount(found.symbols.flatten().long()).cpu().numpy())
        total += weight.numel()
    return SchemeError(scheme, bits, coded / total, lost / total)
