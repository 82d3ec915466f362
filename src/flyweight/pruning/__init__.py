"""Which weights go: masks by many criteria, and how sparsity grows over a run."""

from flyweight.pruning.allocation import allocate
from flyweight.pruning.analysis import (
    LayerSummary,
    SensitivityPoint,
    Summary,
    filter_sums,
    sensitivity,
    summary,
    zero_filters,
)
from flyweight.pruning.choice import Pattern, choose_masks
from flyweight.pruning.criteria import (
    global_magnitude_masks,
    percentile_mask,
    random_mask,
    std_mask,
)
from flyweight.pruning.layers import (
    apply_masks_,
    matching,
    matching_parameters,
    overrides_by_name,
    select_weights,
    weights_named,
)
from flyweight.pruning.patterns import block_mask, channel_mask, filter_mask, n_of_m_mask
from flyweight.pruning.ranking import masks_by_score
from flyweight.pruning.saliency import fisher_information, reached_weights, saliency_scores
from flyweight.pruning.schedules import (
    SCHEDULES,
    Unit,
    cubic_sparsity,
    linear_sparsity,
    prunings,
    sparsity_at,
)

__all__ = [
    "SCHEDULES",
    "LayerSummary",
    "Pattern",
    "SensitivityPoint",
    "Summary",
    "Unit",
    "allocate",
    "apply_masks_",
    "block_mask",
    "channel_mask",
    "choose_masks",
    "cubic_sparsity",
    "filter_mask",
    "filter_sums",
    "fisher_information",
    "global_magnitude_masks",
    "linear_sparsity",
    "masks_by_score",
    "matching",
    "matching_parameters",
    "n_of_m_mask",
    "overrides_by_name",
    "percentile_mask",
    "prunings",
    "random_mask",
    "reached_weights",
    "saliency_scores",
    "select_weights",
    "sensitivity",
    "sparsity_at",
    "std_mask",
    "summary",
    "weights_named",
    "zero_filters",
]
