"""Any `nn.Module`: build it, check it, select its weights, parametrize them."""

from flyweight._architectures import architectures, register_architecture
from flyweight.modules.architecture import (
    Architecture,
    architecture_of,
    build,
    fill_,
    names_and_shapes,
    without_wrappers,
)
from flyweight.modules.checks import (
    IntegerLayer,
    check_config,
    check_copyable,
    check_fillable,
    check_float,
    check_model,
    check_steps,
)
from flyweight.modules.digest import add_network_
from flyweight.modules.import_paths import import_path
from flyweight.modules.layout import OUTPUTS_FIRST, WeightLayout
from flyweight.modules.optimizer_check import OptimizerCheck
from flyweight.modules.parametrize import (
    WeightParametrization,
    attach_,
    attached,
    check_detached,
    check_plain,
    dense_weight,
    detach_,
    first_revived,
    is_plain,
    straight_through,
)
from flyweight.modules.selection import (
    apply_masks_,
    embeddings_of,
    matching,
    matching_parameters,
    nonzero_mask,
    overrides_by_name,
    select_weights,
    weights_named,
)
from flyweight.modules.zeros import masks_of_zeros

__all__ = [
    "OUTPUTS_FIRST",
    "Architecture",
    "IntegerLayer",
    "OptimizerCheck",
    "WeightLayout",
    "WeightParametrization",
    "add_network_",
    "apply_masks_",
    "architecture_of",
    "architectures",
    "attach_",
    "attached",
    "build",
    "check_config",
    "check_copyable",
    "check_detached",
    "check_fillable",
    "check_float",
    "check_model",
    "check_plain",
    "check_steps",
    "dense_weight",
    "detach_",
    "embeddings_of",
    "fill_",
    "first_revived",
    "import_path",
    "is_plain",
    "masks_of_zeros",
    "matching",
    "matching_parameters",
    "names_and_shapes",
    "nonzero_mask",
    "overrides_by_name",
    "register_architecture",
    "select_weights",
    "straight_through",
    "weights_named",
    "without_wrappers",
]
