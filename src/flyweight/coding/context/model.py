"""Probability model of the context coder: adaptation rates, nodes and contexts.

All of it is part of the format; docs/format.md describes it.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CONTEXTS",
    "IS_KEPT",
    "KERNEL_STEPS",
    "SIGN",
    "SMALL",
    "energy_rates",
    "path",
    "paths",
    "rates",
    "tree",
]

CONTEXTS = 10  # 1 to 9, and before them the parents
IS_KEPT = 992  # nodes: see `tree`
SIGN = 993
SMALL = 62  # the largest magnitude that is coded by modeled decisions alone
KERNEL_STEPS = (1, 5, 10, 17)  # what a guess reaches in the contexts beside the middle one

_SLOWEST, _FASTEST, _ENERGY_SLOWEST = 64, 512, 512  # least rates, in 1/65536
_GROUPS = 31


@cache
def rates() -> NDArray[np.int64]:
    """Return the rates of the slow and of the fast estimate after n bits, shape (2, 1024)."""
    return np.stack([_rates(1024, _SLOWEST), _rates(1024, _FASTEST)])


@cache
def energy_rates() -> NDArray[np.int64]:
    """Return the rates of energies: a row's at place x is number x, a column's number y + 1.

    A row lags by one value, so that the next context need not wait for the value before it.
    """
    return np.concatenate([[_ENERGY_SLOWEST], _rates(128, _ENERGY_SLOWEST)])


def _rates(length: int, least: int) -> NDArray[np.int64]:
    return np.maximum(131_072 // (2 * np.arange(length) + 3), least).astype(np.int64)


@cache
def tree() -> NDArray[np.int32]:
    """Return what follows node n after bit b, at 2 n + b: a node, or below zero a leaf.

    A leaf is ``-1 - (negative | bits << 1 | top << 6)``: the magnitude plus one begins with the
    bits of ``top``, and that many more bits follow, coded without a model.
    """
    tree = np.full(1 << 12, -1 - (1 << 6), dtype=np.int32)
    tree[2 * IS_KEPT + 1] = SIGN
    for negative in (0, 1):
        tree[2 * SIGN + negative] = negative << 10
        for group in range(_GROUPS):
            node = negative << 10 | group << 5
            last = group == _GROUPS - 1
            if not last:
                tree[2 * node] = node + 1
                tree[2 * node + 1] = node + 32 + (group == _GROUPS - 2)
            depth = min(group + 1, 5)
            for branch in range(1, 1 << depth):
                for top in (2 * branch, 2 * branch + 1):
                    leaf = negative | (group + 1 - depth) << 1 | top << 6
                    inner = not top >> depth
                    tree[2 * node + top] = node + top if inner else -1 - leaf
    return tree


def path(value: int, has_zeros: bool) -> list[int]:
    """Return the decisions that code a value in the tree, each as 2 node + bit."""
    path = [2 * IS_KEPT + (value != 0)] if has_zeros else []
    if value:
        negative = int(value < 0)
        total = abs(value) + 1
        group = total.bit_length() - 2
        first = negative << 10
        path.append(2 * SIGN + negative)
        path += [2 * (first + 32 * index) + 1 for index in range(group)]
        first += 32 * group
        if group < _GROUPS - 1:
            path.append(2 * first)
        path += [2 * first + (total >> left) for left in range(group, max(group - 5, -1), -1)]
    return path


@cache
def paths(has_zeros: bool) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the paths of all small values end to end, and where each begins."""
    each = [path(value, has_zeros) for value in range(-SMALL, SMALL + 1)]
    starts = np.cumsum([0, *map(len, each)], dtype=np.int64)
    return np.array([step for one in each for step in one], dtype=np.int32), starts
