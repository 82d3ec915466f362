"""Any `nn.Module`: build it, check it, choose its weights, put parametrizations on them."""

from flyweight.modules.architectures import (
    Architecture,
    build,
    fill_,
)
from flyweight.modules.checks import (
    check_model,
)
from flyweight.modules.digest import (
    add_network_,
)
from flyweight.modules.parametrize import (
    WeightParametrization,
    attach_,
    attached,
    check_detached,
    check_plain,
    dense_weight,
    detach_,
    first_revived,
    straight_through,
)
from flyweight.modules.selection import (
    apply_masks_,
    nonzero_mask,
    matching,
    matching_parameters,
    overrides_by_name,
    select_weights,
    weights_named,
)

__all__ = [
    "Architecture",
    "WeightParametrization",
    "add_network_",
    "apply_masks_",
    "attach_",
    "attached",
    "build",
    "check_detached",
    "check_model",
    "check_plain",
    "dense_weight",
    "detach_",
    "fill_",
    "first_revived",
    "nonzero_mask",
    "matching",
    "matching_parameters",
    "overrides_by_name",
    "select_weights",
    "straight_through",
    "weights_named",
]
