"""Configuration of pruning."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal

from torch import Tensor

from flyweight._config import AtLeastOne, Fraction, ProperFraction, check_fields
from flyweight.errors import RecipeError
from flyweight.pruning.choice import Pattern

__all__ = ["Criterion", "PruningConfig"]

Criterion = Callable[[Tensor], Tensor]
"""A function of a dense weight that returns scores of its shape; the lowest are pruned first."""


@dataclasses.dataclass(frozen=True)
class PruningConfig:
    """Configure pruning: target sparsity, criterion, pattern, schedule, and layers.

    Attributes:
        sparsity: fraction of the selected weights that are zero at the end, from 0 to below 1.
        criterion: which weights are pruned first: those of the smallest "magnitude"; those of the
            least effect on the loss by "taylor" or "fisher", measured on calibration data at each
            pruning; at "random"; or those of the lowest score of a function, weight → scores of
            its shape.
        scope: "global" has one threshold for all layers, "layer" the same sparsity in each.
        pattern: "weights", N:M such as "2:4", "filters", "channels", or a block of outputs, inputs
            and kernel such as "4x1x3x3". Patterns other than "weights" are chosen layer by layer;
            N:M needs a sparsity of 1 − N/M.
        schedule: "cubic" and "linear" grow to ``sparsity``; "one-shot" prunes before the first
            step.
        ramp: fraction of the steps in which sparsity grows, from 0 to 1.
        interval: steps or epochs from one pruning to the next.
        unit: of the interval, "steps" or "epochs".
        allow_regrowth: pruned weights keep learning and may return until the ramp ends, except
            those of pruned filters.
        include: globs over names of weights of two and more dimensions that are pruned. Embeddings
            are pruned only if a glob other than "*" matches one of their names.
        exclude: globs of those among them that are not pruned.
        layer_types: classes of layers that are pruned, such as "Conv2d"; none for all but
            embeddings.
        overrides: sparsity by glob, for layers that differ from the others.
        calibration_examples: number of examples on which "taylor" and "fisher" are measured.

    Raises:
        RecipeError: a value is of another type, out of its bounds, or in conflict with another.

    Example:
        >>> PruningConfig(sparsity=0.9, schedule="one-shot").scope
        'global'

    Sources: Zhu & Gupta 2017, "To prune, or not to prune" (cubic schedule); Lin et al. 2020,
    "Dynamic model pruning with feedback" (regrowth).
    """

    sparsity: ProperFraction = 0.75
    criterion: Literal["magnitude", "taylor", "fisher", "random"] | Criterion = "magnitude"
    scope: Literal["global", "layer"] = "global"
    pattern: str = "weights"
    schedule: Literal["cubic", "linear", "one-shot"] = "cubic"
    ramp: Fraction = 0.6
    interval: AtLeastOne = 20
    unit: Literal["steps", "epochs"] = "steps"
    allow_regrowth: bool = True
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    layer_types: tuple[str, ...] = ()
    overrides: Mapping[str, Fraction] = dataclasses.field(default_factory=dict)
    calibration_examples: AtLeastOne = 512

    def __post_init__(self) -> None:
        check_fields(self, "pruning")
        pattern = Pattern.of(self.pattern)
        if pattern.kind == "n:m":
            n, m = pattern.extents
            near = abs(self.sparsity - (1 - n / m)) <= 1e-6
            if not near or pattern.pruned_of_each(self.sparsity) != m - n or self.overrides:
                raise RecipeError(
                    f"pruning.pattern {self.pattern!r} needs a sparsity of {1 - n / m} in every "
                    f"layer, without overrides; found {self.sparsity}"
                )

    @property
    def needs_data(self) -> bool:
        """Whether the criterion needs calibration data."""
        return self.criterion in ("taylor", "fisher")
