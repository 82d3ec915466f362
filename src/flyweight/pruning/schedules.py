"""How sparsity grows from the first step or epoch of a run to the last."""

from __future__ import annotations

from flyweight.errors import RecipeError

__all__ = ["SCHEDULES", "cubic_sparsity", "linear_sparsity", "sparsity_at"]


def cubic_sparsity(progress: float, final: float, *, initial: float = 0.0) -> float:
    """Sparsity after the fraction ``progress`` of the ramp: fast at first, slow near the end.

    ``s = final + (initial − final)·(1 − progress)³``, with progress clipped to 0…1.

    Example:
        >>> [round(cubic_sparsity(p, 0.8), 3) for p in (0.0, 0.5, 1.0)]
        [0.0, 0.7, 0.8]

    Source: Zhu & Gupta 2017, "To prune, or not to prune", eq. 1.
    """
    progress = min(1.0, max(0.0, progress))
    return final + (initial - final) * (1.0 - progress) ** 3


def linear_sparsity(progress: float, final: float, *, initial: float = 0.0) -> float:
    """Sparsity after the fraction ``progress`` of the ramp: the same again for each step.

    With a final sparsity of 0.8 and ten prunings, the (e + 1)-th at progress (e + 1)/10, this is
    the 8 % an epoch of the usual course exercise.

    Example:
        >>> [round(linear_sparsity((e + 1) / 10, 0.8), 2) for e in (0, 1, 9)]
        [0.08, 0.16, 0.8]
    """
    progress = min(1.0, max(0.0, progress))
    return initial + (final - initial) * progress


SCHEDULES = ("one-shot", "linear", "cubic")


def sparsity_at(schedule: str, progress: float, final: float) -> float:
    """Sparsity of a schedule by name after the fraction ``progress`` of its ramp.

    "one-shot" is final from the start. Raises RecipeError for an unknown name.

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
