"""Report of a quantization: bits, levels and error of each tensor."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from flyweight.coding import entropy
from flyweight.compressed import CompressedTensor

__all__ = ["LayerQuantization", "QuantizationReport", "quantization_row"]


@dataclasses.dataclass(frozen=True)
class LayerQuantization:
    """Quantization of one tensor.

    Attributes:
        name: of the tensor.
        weights: number of its weights.
        zeros: how many of them are exactly zero.
        levels: number of distinct nonzero levels; with scales, before these are applied.
        bits_per_weight: entropy of the symbols, zeros included, of order 0.
        error: root mean square of the error relative to that of the float weights that are not
            pruned.
    """

    name: str
    weights: int
    zeros: int
    levels: int
    bits_per_weight: float
    error: float


@dataclasses.dataclass(frozen=True)
class QuantizationReport:
    """Quantization of each tensor of a model; ``print`` gives a table.

    Example:
        >>> report = QuantizationReport("kmeans", (LayerQuantization("w", 100, 50, 4, 1.5, 0.1),))
        >>> report.bits_per_weight
        1.5
        >>> print(report)
        tensor     weights   zeros  levels    bits   error
        w              100   50.0%       4    1.50   10.0%
        total          100   50.0%            1.50
    """

    method: str
    layers: tuple[LayerQuantization, ...]

    @property
    def weights(self) -> int:
        """Number of quantized weights."""
        return sum(layer.weights for layer in self.layers)

    @property
    def sparsity(self) -> float:
        """Fraction of the quantized weights that are exactly zero."""
        return sum(layer.zeros for layer in self.layers) / max(1, self.weights)

    @property
    def bits_per_weight(self) -> float:
        """Mean entropy of a quantized weight, in bits."""
        bits = sum(layer.bits_per_weight * layer.weights for layer in self.layers)
        return bits / max(1, self.weights)

    def __str__(self) -> str:
        width = max(8, *(len(layer.name) for layer in self.layers)) if self.layers else 8
        lines = [f"{'tensor':<{width}}  weights   zeros  levels    bits   error"]
        lines += [
            f"{layer.name:<{width}} {layer.weights:8,} {layer.zeros / max(1, layer.weights):7.1%} "
            f"{layer.levels:7} {layer.bits_per_weight:7.2f} {layer.error:7.1%}"
            for layer in self.layers
        ]
        lines.append(
            f"{'total':<{width}} {self.weights:8,} {self.sparsity:7.1%} "
            f"{'':7} {self.bits_per_weight:7.2f}"
        )
        return "\n".join(lines)


@torch.no_grad()
def quantization_row(name: str, weight: Tensor, tensor: CompressedTensor) -> LayerQuantization:
    """Return the row of a tensor, given its float weights and what they became.

    Example:
        >>> tensor = CompressedTensor(torch.tensor([0, 1]), torch.tensor([1.0]))
        >>> row = quantization_row("w", torch.tensor([0.0, 1.0]), tensor)
        >>> row.zeros, row.levels, row.bits_per_weight, row.error
        (1, 1, 1.0, 0.0)
    """
    values = tensor.dequantize().double()
    kept = tensor.symbols > 0
    exact = torch.where(kept, weight.detach().double(), 0.0)
    squares = float(exact.square().sum())
    lost = float((torch.where(kept, values, 0.0) - exact).square().sum())
    counts = torch.bincount(tensor.symbols.flatten().long()).cpu().numpy()
    return LayerQuantization(
        name=name,
        weights=weight.numel(),
        zeros=int((values == 0).sum()),
        levels=int(tensor.levels.numel()),
        bits_per_weight=entropy(counts) / max(1, weight.numel()),
        error=(lost / squares) ** 0.5 if squares else 0.0,
    )
