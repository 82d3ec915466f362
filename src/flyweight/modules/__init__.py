"""Any `nn.Module`: build it, check it, select its weights, parametrize them."""

from flyweight.modules.architectures import Architecture, build, fill_
from flyweight.modules.checks import IntegerLayer, check_float, check_model
from flyweight.modules.digest import add_network_
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
    matching,
    matching_parameters,
    nonzero_mask,
    overrides_by_name,
    select_weights,
    weights_named,
)

__all__ = [
    "Architecture",
    "IntegerLayer",
    "WeightParametrization",
    "add_network_",
    "apply_masks_",
    "attach_",
    "attached",
    "build",
    "check_detached",
    "check_float",
    "check_model",
    "check_plain",
    "dense_weight",
    "detach_",
    "fill_",
    "first_revived",
    "matching",
    "matching_parameters",
    "nonzero_mask",
    "overrides_by_name",
    "select_weights",
    "straight_through",
    "weights_named",
]
