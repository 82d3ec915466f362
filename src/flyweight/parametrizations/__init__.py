"""Masked, shared and quantised weights on any module, while it trains."""

from flyweight.parametrizations.attaching import (
    attach_,
    attached,
    check_detached,
    check_plain,
    dense_weight,
    detach_,
)
from flyweight.parametrizations.learned import LearnedStepWeight, TernaryWeight
from flyweight.parametrizations.masked import MaskedWeight
from flyweight.parametrizations.quantized import BinaryWeight, FixedPointWeight
from flyweight.parametrizations.shared import SharedWeight
from flyweight.parametrizations.through import straight_through

__all__ = [
    "BinaryWeight",
    "FixedPointWeight",
    "LearnedStepWeight",
    "MaskedWeight",
    "SharedWeight",
    "TernaryWeight",
    "attach_",
    "attached",
    "check_detached",
    "check_plain",
    "dense_weight",
    "detach_",
    "straight_through",
]
