"""Schedules of sparsity over the steps or epochs of a run."""

from __future__ import annotations

from typing import Literal

from flyweight.errors import RecipeError

__all__ = [
    "SCHEDULES",
    "Unit",
    "cubic_sparsity",
    "linear_sparsity",
    "prunings",
    "sparsity_at",
]

Unit = Literal["steps", "epochs"]


def cubic_sparsity(progress: float, final: float) -> float:
    """Compute the sparsity of the cubic schedule, which grows fast at first and slowly at the end.

    ``s = final·(1 − (1 − progress)³)``, with ``progress``, the fraction of the ramp that is over,
    clipped to 0…1.

    Example:
        >>> [round(cubic_sparsity(p, 0.8), 3) for p in (0.0, 0.5, 1.0)]
        [0.0, 0.7, 0.8]

    Source: Zhu & Gupta 2017, "To prune, or not to prune", eq. 1, from an initial sparsity of 0.
    """
    progress = min(1.0, max(0.0, progress))
    return final - final * (1.0 - progress) ** 3


def linear_sparsity(progress: float, final: float) -> float:
    """Compute the sparsity of the linear schedule, ``final·progress`` with progress in 0…1.

    With a final sparsity of 0.8 and ten prunings, of which the (e + 1)-th has the progress
    (e + 1)/10, each prunes 8 % more.

    Example:
        >>> [round(linear_sparsity((e + 1) / 10, 0.8), 2) for e in (0, 1, 9)]
        [0.08, 0.16, 0.8]
    """
    progress = min(1.0, max(0.0, progress))
    return final * progress


SCHEDULES = ("one-shot", "linear", "cubic")


def sparsity_at(schedule: str, progress: float, final: float) -> float:
    """Compute the sparsity of a schedule by name after the fraction ``progress`` of its ramp.

    "one-shot" has the final sparsity from the start.

    Raises:
        RecipeError: the schedule is unknown.

    Example:
        >>> [round(sparsity_at(name, 0.5, 0.8), 3) for name in SCHEDULES]
        [0.8, 0.4, 0.7]
    """
    if schedule == "one-shot":
        return final
    if schedule == "linear":
        return linear_sparsity(progress, final)
    if schedule == "cubic":
        return cubic_sparsity(progress, final)
    raise RecipeError(f"the schedule {schedule!r} is unknown; known are {', '.join(SCHEDULES)}")


def prunings(
    schedule: str, *, steps: int, ramp: float, interval: int, unit: Unit = "steps", epochs: int = 0
) -> dict[int, float]:
    """List the steps before which masks are chosen, each with the progress of the ramp.

    Args:
        schedule: "one-shot" prunes once, before the first step.
        steps: number of steps of the whole run.
        ramp: fraction of the run, from 0 to 1, in which sparsity grows.
        interval: steps or epochs from one pruning to the next.
        unit: of ``interval``. By steps, progress is that of the step, from 0. By epochs, the k-th
            of K prunings has progress k/K and precedes epoch (k − 1)·interval, counted from 0; K is
            the number of intervals nearest to the length of the ramp, and at least 1.
        epochs: number of epochs of the whole run, needed if they are the unit.

    Returns:
        Progress by step; the last is 1.

    Raises:
        RecipeError: the unit is "epochs" and ``epochs`` is 0.

    Example:
        >>> prunings("linear", steps=40, ramp=0.5, interval=1, unit="epochs", epochs=4)
        {0: 0.5, 10: 1.0}
        >>> prunings("linear", steps=90, ramp=1.0, interval=2, unit="epochs", epochs=9)
        {0: 0.25, 20: 0.5, 40: 0.75, 60: 1.0}
        >>> prunings("cubic", steps=40, ramp=0.5, interval=8)
        {0: 0.0, 8: 0.4, 16: 0.8, 20: 1.0}
    """
    if schedule == "one-shot" or steps == 0:
        return {0: 1.0}
    if unit == "steps":
        last = min(int(ramp * steps), steps - 1)  # the last step has all the sparsity
        if not last:
            return {0: 1.0}
        return {step: step / last for step in (*range(0, last, interval), last)}
    if epochs < 1:
        raise RecipeError(
            "pruning.unit is 'epochs' and the length of an epoch is not known; give epochs"
        )
    count = max(1, round(ramp * epochs / interval))
    return {k * interval * steps // epochs: (k + 1) / count for k in range(count)}
