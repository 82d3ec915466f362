"""The figures: log loss and the path of every weight for each case, and what compares them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flyweight.report import (
    LINES,
    figure_grid,
    in_style,
    label_axes,
    legend_above,
    save_figure,
)
from flyweight.sparse_regression import History
from labs.sparse_regression.cases import (
    L1_STRENGTHS,
    STEPS,
    Case,
    converged,
    ista_and_fista,
    lasso_objective,
    trimmed_on_old,
)

__all__ = ["draw_all"]

STEP_AXIS = "step k"
LOSS_AXIS = "loss L, (unit of y)², log scale"
WEIGHT_AXIS = "weight, unit of y / unit of X"
SMALLEST = 1e-5
NAMES = ("w₁", "w₂", "w₃", "w₄", "w₅")


@in_style
def draw_all(cases: Sequence[Case], folder: Path) -> None:
    """Write every figure as SVG and PNG into ``folder``."""
    early = [case for case in cases if case.letter in "cf"]
    figures = {
        letter: _per_case([case for case in cases if case.letter == letter]) for letter in "bcdef"
    }
    figures["early"] = _early(early)
    figures["path"] = _path()
    figures["fista"] = _speed()
    figures["old"] = _on_old(next(case for case in early if case.strength == 10))
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        for ending in ("svg", "png"):
            save_figure(figure, folder / f"{name}.{ending}")


def _weights(axes: Axes, history: History, title: str, last: int, every: int) -> None:
    for number, (name, line) in enumerate(zip(NAMES, LINES, strict=False)):
        path = history.weights[: last + 1, number]
        offset = number * every // len(NAMES)  # markers of two lines never hide each other
        axes.plot(path, label=name, markevery=(offset, every), **line)
    label_axes(axes, title, STEP_AXIS, WEIGHT_AXIS)


def _loss(axes: Axes, history: History, title: str) -> None:
    axes.plot(history.loss, color="0.15")
    label_axes(axes, title, STEP_AXIS, LOSS_AXIS, log=True)


def _per_case(cases: Sequence[Case]) -> Figure:
    """A row for each: its loss, its weights, and under L1 how small two of these are."""
    columns = 3 if cases[0].letter in "de" else 2
    figure, axes = figure_grid(len(cases), columns, height=0.6 + 2.2 * len(cases))
    for row, case in enumerate(cases):
        first, second, *others = axes[row * columns : (row + 1) * columns]
        _loss(first, case.history, f"{case.name}: loss")
        _weights(second, case.history, f"{case.name}: weights", STEPS, 25)
        for third in others:
            _magnitudes(third, case.history)
    legend_above(figure, axes[1])
    return figure


def _magnitudes(axes: Axes, history: History) -> None:
    """Of the two weights that are to vanish soonest, every second step; 0 is the lower edge."""
    steps = np.arange(0, STEPS + 1, 2)
    for number in (2, 3):
        sizes = np.abs(history.weights[steps, number]).clip(min=SMALLEST)
        axes.plot(steps, sizes, markevery=(number, 12), **LINES[number])
    label_axes(
        axes, "w₃ and w₄ (lower edge: exactly 0)", STEP_AXIS, "magnitude, log scale", log=True
    )
    axes.set_ylim(SMALLEST, 1)


def _early(cases: Sequence[Case]) -> Figure:
    figure, axes = figure_grid(3, 2, height=7.5)
    for each, case in zip(axes, cases, strict=False):
        _weights(each, case.history, f"{case.name}: first 20 steps", 20, 5)
        each.set_xticks(range(0, 21, 4))
        each.set_ylim(-1.4, 2.1)
    legend_above(figure, axes[0])
    last = axes[-1]
    for number, (line, case) in enumerate(zip(LINES, cases, strict=False)):
        name = case.name.partition(") ")[2]
        counts = case.history.support.sum(1)[:21]
        last.plot(counts, label=name, markevery=(number, 5), **line)
    label_axes(last, "non-zero weights in the first 20 steps", STEP_AXIS, "number of weights")
    last.set_xticks(range(0, 21, 4))
    last.set_yticks(range(6))
    last.set_ylim(-0.3, 8.5)
    last.legend(handlelength=3, ncols=2, loc="upper center", fontsize=6.5, columnspacing=1)
    return figure


def shortfall(strength: float) -> tuple[float, float]:
    """How far the weights of ISTA and of FISTA are from the minimiser after the last step."""
    found = ista_and_fista(strength)
    distances = [float(np.abs(h.weights[-1] - converged(strength)).max()) for h in found]
    return distances[0], distances[1]


def _path() -> Figure:
    """The lasso path in closed form, with where 200 steps of ISTA end, and the distance."""
    figure, (left, right) = figure_grid(1, 2, height=3.2)
    fine = np.geomspace(0.08, 24, 241)
    some = np.array([0.1, 0.2, 0.5, 1, 2, 3, 5, 7, 9, 12, 15, 18, 22, 24])
    lines = np.array([converged(strength) for strength in fine])
    ends = np.array([ista_and_fista(strength)[0].weights[-1] for strength in some])
    for number, (name, line) in enumerate(zip(NAMES, LINES, strict=False)):
        if number in (1, 4):
            left.plot(fine, lines[:, number], **{**line, "marker": ""})
        marks = {**line, "linestyle": "none", "markerfacecolor": "white"}
        left.plot(some, ends[:, number], label=name, **marks)
    strengths = "strength λ, (unit of y) · (unit of X)"
    title = f"Closed form (lines) and {STEPS} steps of ISTA (markers)"
    label_axes(left, title, f"{strengths}, log scale", WEIGHT_AXIS)
    left.set_xscale("log")
    left.legend(ncols=2)
    grid = np.geomspace(0.05, 24, 60)
    distances: npt.NDArray[np.float64] = np.array([shortfall(strength) for strength in grid])
    for column, name in enumerate(("ISTA", "FISTA")):
        clipped = distances[:, column].clip(min=1e-16)
        right.plot(grid, clipped, label=name, markevery=6, **LINES[column])
    for strength in L1_STRENGTHS:
        right.axvline(strength, color="0.6", linewidth=0.8)
    right.set_xscale("log")
    label_axes(
        right,
        f"Distance after {STEPS} steps (gray: λ of the exercise)",
        f"{strengths}, log scale",
        "largest error, unit of y / unit of X, log",
        log=True,
    )
    right.legend()
    return figure


def _speed() -> Figure:
    """Objective above its minimum, ISTA and FISTA, and where their support is the final one."""
    figure, axes = figure_grid(2, 2, height=5.3)
    for each, strength in zip(axes, L1_STRENGTHS, strict=True):
        least = lasso_objective(converged(strength), strength)
        for line, name, history in zip(
            LINES, ("ISTA", "FISTA"), ista_and_fista(strength, 1000), strict=False
        ):
            gap = lasso_objective(history.weights, strength) - least
            gap = np.where(gap > 1e-14, gap, np.nan)  # below there is rounding alone
            settled, _ = history.support_changes[-1]
            text = f"{name}, final support from step {settled}"
            each.plot(gap, label=text, markevery=[settled], **{**line, "markersize": 7})
        objective = "above the minimum, (unit of y)², log"
        label_axes(each, f"L1, λ = {strength:g}", STEP_AXIS, objective, log=True)
        each.set_ylim(1e-14, 1e3)
        each.legend(loc="upper right")
    return figure


def _on_old(exact: Case) -> Figure:
    old = trimmed_on_old(10.0)
    figure, axes = figure_grid(1, 3, height=2.6)
    _weights(axes[0], exact.history, "spared on the stepped vector", 40, 8)
    _weights(axes[1], old, "spared on the old vector", 40, 8)
    ends = [each.get_ylim() for each in axes[:2]]
    for each in axes[:2]:
        each.set_ylim(min(low for low, _ in ends), max(high for _, high in ends))
    legend_above(figure, axes[0])
    for line, name, history in zip(
        LINES, ("stepped vector", "old vector"), (exact.history, old), strict=False
    ):
        axes[2].plot(history.loss, label=name, markevery=25, **line)
    label_axes(axes[2], "trimmed L1, λ = 10: loss", STEP_AXIS, LOSS_AXIS, log=True)
    axes[2].legend()
    return figure
