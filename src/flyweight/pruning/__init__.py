"""Which weights go: masks by many criteria, and how sparsity grows over a run."""

from flyweight.pruning.criteria import (
    global_magnitude_masks,
    percentile_mask,
    random_mask,
    std_mask,
)
from flyweight.pruning.layers import select_weights
from flyweight.pruning.patterns import block_mask, channel_mask, filter_mask, n_of_m_mask
from flyweight.pruning.ranking import masks_by_score
from flyweight.pruning.saliency import saliency_scores
from flyweight.pruning.schedules import cubic_sparsity, linear_sparsity, sparsity_at

__all__ = [
    "block_mask",
    "channel_mask",
    "cubic_sparsity",
    "filter_mask",
    "global_magnitude_masks",
    "linear_sparsity",
    "masks_by_score",
    "n_of_m_mask",
    "percentile_mask",
    "random_mask",
    "saliency_scores",
    "select_weights",
    "sparsity_at",
    "std_mask",
]
