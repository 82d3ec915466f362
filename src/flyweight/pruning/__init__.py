"""Prune weights: criteria, masks, schedules and the `Pruner`."""

from flyweight.pruning.allocation import allocate
from flyweight.pruning.analysis import (
    LayerSummary,
    SensitivityPoint,
    Summary,
    filter_sums,
    sensitivity,
    summarize_sparsity,
    zero_filters,
)
from flyweight.pruning.choice import Pattern, choose_masks
from flyweight.pruning.config import Criterion, PruningConfig
from flyweight.pruning.criteria import (
    global_magnitude_masks,
    percentile_mask,
    random_mask,
    std_mask,
)
from flyweight.pruning.masked_weight import MaskedWeight
from flyweight.pruning.patterns import (
    block_extents,
    block_mask,
    channel_mask,
    filter_mask,
    from_blocks,
    n_of_m_mask,
    to_blocks,
)
from flyweight.pruning.pruner import Pruner
from flyweight.pruning.ranking import check_finite, keep_highest, masks_by_score
from flyweight.pruning.report import PrunedLayer, PruningReport
from flyweight.pruning.saliency import fisher_information, reached_weights, saliency_scores
from flyweight.pruning.schedules import cubic_sparsity, linear_sparsity, prunings, sparsity_at

__all__ = [
    "Criterion",
    "LayerSummary",
    "MaskedWeight",
    "Pattern",
    "PrunedLayer",
    "Pruner",
    "PruningConfig",
    "PruningReport",
    "SensitivityPoint",
    "Summary",
    "allocate",
    "block_extents",
    "block_mask",
    "channel_mask",
    "check_finite",
    "choose_masks",
    "cubic_sparsity",
    "filter_mask",
    "filter_sums",
    "fisher_information",
    "from_blocks",
    "global_magnitude_masks",
    "keep_highest",
    "linear_sparsity",
    "masks_by_score",
    "n_of_m_mask",
    "percentile_mask",
    "prunings",
    "random_mask",
    "reached_weights",
    "saliency_scores",
    "sensitivity",
    "sparsity_at",
    "std_mask",
    "summarize_sparsity",
    "to_blocks",
    "zero_filters",
]
