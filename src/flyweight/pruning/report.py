"""Report of the sparsity that pruning has reached."""

from __future__ import annotations

from dataclasses import dataclass

from flyweight.pruning.analysis import sparsity_table

__all__ = ["PrunedLayer", "PruningReport"]


@dataclass(frozen=True)
class PrunedLayer:
    """Zeros of one weight that a `Pruner` prunes.

    Attributes:
        name: name of the weight.
        type: class of its layer.
        parameters: number of weights.
        zeros: number of weights that are zero.
    """

    name: str
    type: str
    parameters: int
    zeros: int

    @property
    def sparsity(self) -> float:
        """Fraction of the weights that are zero."""
        return self.zeros / self.parameters if self.parameters else 0.0


@dataclass(frozen=True)
class PruningReport:
    """Sparsity asked for and reached; ``str`` gives a table of at most 80 columns.

    Attributes:
        asked: fraction of the weights in ``layers`` that the configuration makes zero in the end.
        layers: one row for each weight that is pruned. Excluded weights, and those that were all
            zero at the start, have none.

    Example:
        >>> print(PruningReport(asked=0.5, layers=(PrunedLayer("fc.weight", "Linear", 8, 4),)))
        layer      type    parameters  zeros  sparsity
        fc.weight  Linear           8      4    0.5000
        total                       8      4    0.5000
        sparsity asked for: 0.5000
    """

    asked: float
    layers: tuple[PrunedLayer, ...]

    @property
    def parameters(self) -> int:
        """Number of weights in all rows."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def zeros(self) -> int:
        """Number of weights in all rows that are zero."""
        return sum(layer.zeros for layer in self.layers)

    @property
    def reached(self) -> float:
        """Fraction of the weights in all rows that are zero."""
        return self.zeros / self.parameters if self.parameters else 0.0

    def __str__(self) -> str:
        table = sparsity_table(
            "zeros",
            [(row.name, row.type, row.parameters, row.zeros, row.sparsity) for row in self.layers],
            (self.parameters, self.zeros, self.reached),
        )
        return f"{table}\nsparsity asked for: {self.asked:.4f}"
