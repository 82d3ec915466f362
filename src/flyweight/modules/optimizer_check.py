"""Check that the optimizer trains the prepared model, and not the original one."""

from __future__ import annotations

import warnings

import torch
from torch import nn

__all__ = ["OptimizerCheck"]


class OptimizerCheck:
    """Warn if no parameter of a prepared model changed between two optimizer steps.

    A `Pruner` or `Quantizer` prepares a copy of the model. An optimizer over the parameters of the
    original trains nothing, which no error shows. Steps that gradient scaling skips, since
    gradients are infinite, do not count. After the first change the check costs nothing.

    Args:
        model: the prepared model.
        owner: name of the variable that usually holds its owner, for the warning.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> check = OptimizerCheck(model, "pruner")
        >>> check.step()
        >>> _ = model.weight.data.add_(1)
        >>> check.step()
    """

    def __init__(self, model: nn.Module, owner: str) -> None:
        self._model = model
        self._owner = owner
        self._before: tuple[list[int], list[float]] | None = None
        self._passed = False

    def step(self) -> None:
        """Compare the parameters with those of the step before; after a change, do nothing."""
        if self._passed:
            return
        trained = [p for p in self._model.parameters() if p.requires_grad]
        found = _fingerprint(trained)
        if self._before is not None and found != self._before:
            self._passed = True
        elif self._before is not None and _has_finite_gradients(trained):
            self._passed = True
            warnings.warn(
                "no parameter of the prepared model changed between two steps; give the optimizer "
                f"{self._owner}.model.parameters(), not those of the original model",
                stacklevel=3,
            )
        self._before = found


def _fingerprint(parameters: list[nn.Parameter]) -> tuple[list[int], list[float]]:
    """Return the versions and sums of parameters.

    Steps with a learning rate of 0 change the versions only, writes to ``.data`` the sums only.
    """
    versions = [0 if p.is_inference() else p._version for p in parameters]
    sums = [p.detach().float().abs().sum().cpu() for p in parameters]
    return versions, torch.stack(sums).tolist() if sums else []


def _has_finite_gradients(parameters: list[nn.Parameter]) -> bool:
    return all(bool(torch.isfinite(p.grad).all()) for p in parameters if p.grad is not None)
