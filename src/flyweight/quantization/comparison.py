"""Compare the error of quantization schemes at equal bits, on the same weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from flyweight.coding import entropy
from flyweight.compressed import CompressedTensor
from flyweight.errors import ModelError
from flyweight.quantization.fixed_point import SCHEMES, Scheme, quantize_fixed_point
from flyweight.quantization.rate_distortion import rdoq
from flyweight.quantization.weight_sharing import quantize_kmeans

__all__ = ["SchemeError", "compare_schemes"]

_PER_CHANNEL = " per channel"
_RDOQ = "rate and distortion"
_COARSEST = 4.0  # times the root mean square; 2^−b of it is a step of about b bits


@dataclass(frozen=True)
class SchemeError:
    """Error and rate of a scheme at a number of bits.

    Attributes:
        scheme: name, for a legend.
        bits: of a level, before entropy coding.
        bits_per_weight: order-0 entropy of a quantized weight, zeros included; of all tensors.
        error: squared error over squared weights of a tensor, the mean over all weights.
    """

    scheme: str
    bits: int
    bits_per_weight: float
    error: float


def compare_schemes(
    weights: Mapping[str, Tensor], *, bits: Sequence[int] = (2, 3, 4, 5, 6)
) -> list[SchemeError]:
    """Quantize the nonzero weights of each tensor by every scheme that needs no training.

    The schemes are k-means (optimal), fixed point of three kinds with one range and with one for
    each channel, and rate-distortion optimized quantization with a step of about as many bits.
    Codebooks and ranges, small beside the weights of large tensors, do not count, nor does what a
    context coder saves. A vector has one range.

    Args:
        weights: tensors by name.
        bits: numbers of bits, of each scheme.

    Raises:
        ModelError: there are no weights, or bits that a scheme cannot have.

    Example:
        >>> found = compare_schemes({"weight": torch.linspace(-1, 1, 1000)}, bits=[4])
        >>> [(point.scheme, round(point.bits_per_weight, 1)) for point in found[:3]]
        [('k-means', 4.0), ('uniform', 4.0), ('symmetric', 3.9)]
    """
    if not any(weight.numel() for weight in weights.values()):
        raise ModelError("there are no weights to quantize; give some")
    channels = tuple(f"{scheme}{_PER_CHANNEL}" for scheme in SCHEMES)
    return [
        _measured(scheme, some, weights)
        for scheme in ("k-means", *SCHEMES, *channels, _RDOQ)
        for some in bits
    ]


def _quantized(scheme: str, weight: Tensor, bits: int) -> CompressedTensor:
    if scheme == "k-means":
        return quantize_kmeans(weight, bits=bits, init="optimal")
    if scheme == _RDOQ:
        size = float(weight.detach().double().square().mean().sqrt())
        step = _COARSEST * 2.0**-bits * max(size, 1e-30)
        # The loss per bit for which steps_at_loss_per_bit gives this step at a sensitivity of 1.
        return rdoq(weight, step=step, loss_per_bit=step**2 * math.log(2) / 6)
    per_channel = scheme.endswith(_PER_CHANNEL) and weight.ndim > 1
    scheme = scheme.removesuffix(_PER_CHANNEL)
    kind = cast(Scheme, scheme)
    return quantize_fixed_point(weight, bits=bits, scheme=kind, per_channel=per_channel)


def _measured(scheme: str, bits: int, weights: Mapping[str, Tensor]) -> SchemeError:
    coded = lost = total = 0.0
    for weight in weights.values():
        if not weight.numel():
            continue
        found = _quantized(scheme, weight, bits)
        exact = weight.detach().double()
        squares = float((found.dequantize().double() - exact).square().sum())
        lost += weight.numel() * squares / max(float(exact.square().sum()), 1e-300)
        coded += entropy(torch.bincount(found.symbols.flatten().long()).cpu().numpy())
        total += weight.numel()
    return SchemeError(scheme, bits, coded / total, lost / total)
