"""Proximal operators of sparsity penalties, alone or after each step of an optimizer."""

from flyweight.proximal.groups import group_soft_threshold
from flyweight.proximal.optimizer import Operator, Penalty, ProximalSteps, attach_proximal_
from flyweight.proximal.penalties import (
    elastic_net,
    hard_threshold,
    mcp,
    scad,
    soft_threshold,
    trimmed_l1,
)
from flyweight.proximal.projections import n_of_m, top_k

__all__ = [
    "Operator",
    "Penalty",
    "ProximalSteps",
    "attach_proximal_",
    "elastic_net",
    "group_soft_threshold",
    "hard_threshold",
    "mcp",
    "n_of_m",
    "scad",
    "soft_threshold",
    "top_k",
    "trimmed_l1",
]
