"""Which weights go: masks by magnitude, and how sparsity grows over a run."""

from flyweight.pruning.criteria import global_magnitude_masks
from flyweight.pruning.schedules import cubic_sparsity

__all__ = ["cubic_sparsity", "global_magnitude_masks"]
