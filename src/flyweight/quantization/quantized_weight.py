"""Parametrization of a weight for each method of quantization-aware training."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from flyweight.compressed import CompressedTensor
from flyweight.quantization.config import QuantizationConfig
from flyweight.quantization.fixed_point import FixedPoint
from flyweight.quantization.fixed_point_weight import BinaryWeight, FixedPointWeight
from flyweight.quantization.kmeans_weight import KMeansWeight
from flyweight.quantization.learned_step_weight import LearnedStepWeight, TernaryWeight
from flyweight.quantization.rate_weight import RateWeight
from flyweight.quantization.weight_sharing import quantize_kmeans

__all__ = ["QuantizedWeight", "WeightSettings"]

QuantizedWeight = (
    KMeansWeight | FixedPointWeight | LearnedStepWeight | TernaryWeight | BinaryWeight | RateWeight
)
"""A parametrization whose layer sees quantized weights."""


@dataclasses.dataclass(frozen=True)
class WeightSettings:
    """Settings of the quantization of one weight.

    Attributes:
        config: of all weights.
        bits: final bits of this one.
        per_channel: a scale for each slice along the first axis.
        seed: of k-means.
    """

    config: QuantizationConfig
    bits: int
    per_channel: bool
    seed: int

    def parametrization(
        self, weight: Tensor, mask: Tensor, bits: int, *, importance: Tensor | None = None
    ) -> QuantizedWeight:
        """Return the parametrization of a weight that begins with so many bits.

        Raises:
            ModelError: the weight cannot be quantized so, now or with the final bits.
        """
        config, method = self.config, self.config.method
        if method == "kmeans":
            symbols = self.kmeans(weight, mask, bits, importance=importance).symbols
            return KMeansWeight(symbols, 2**bits, importance)
        if method == "learned-step":
            return LearnedStepWeight(weight, mask, bits=bits, per_channel=self.per_channel)
        if method == "ternary":
            return TernaryWeight(weight, mask, threshold=config.threshold)
        if method == "binary":
            return BinaryWeight(mask, per_channel=self.per_channel)
        if method == "rate":
            raise ValueError("all weights of the method 'rate' are made by RateTraining")
        fixed_point = FixedPoint(
            bits,
            method,
            per_channel=self.per_channel,
            power_of_two=config.power_of_two,
            zero_level=config.zero_level,
        )
        last = dataclasses.replace(fixed_point, bits=self.bits)
        last.compressed(weight, mask)  # raises before training what it would raise after
        return FixedPointWeight(mask, fixed_point)

    def kmeans(
        self, weight: Tensor, mask: Tensor, bits: int, *, importance: Tensor | None
    ) -> CompressedTensor:
        """Return the clusters of a weight."""
        return quantize_kmeans(
            weight,
            bits=bits,
            init=self.config.init,
            mask=mask.to(weight.device),
            weights=importance,
            seed=self.seed,
        )
