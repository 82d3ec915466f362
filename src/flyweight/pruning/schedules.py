"""How sparsity grows from the first step to the last."""

from __future__ import annotations

__all__ = ["cubic_sparsity"]


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
