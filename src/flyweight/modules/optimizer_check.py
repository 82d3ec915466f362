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
        >>> check.remember()  # at the end of step()
        >>> _ = model.weight.data.add_(1)
        >>> check.compare()  # at the beginning of the next
    """

    def __init__(self, model: nn.Module, owner: str) -> None:
        self._model = model
        self._owner = owner
        self._before: list[float] | None = None
        self._over = False

    def _trained(self) -> list[nn.Parameter]:
        return [p for p in self._model.parameters() if p.requires_grad]

    @torch.no_grad()
    def _sums(self) -> list[float]:
        sums = [parameter.double().abs().sum().cpu() for parameter in self._trained()]
        return torch.stack(sums).tolist() if sums else []

    def remember(self) -> None:
        """Remember the parameters, at the end of a step."""
        if not self._over:
            self._before = self._sums()

    def compare(self) -> None:
        """Compare the parameters with those remembered, once; warn if none changed."""
        if self._over or self._before is None:
            return
        gradients = [p.grad for p in self._trained() if p.grad is not None]
        if self._sums() != self._before:
            self._over = True
        elif all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
            self._over = True
            warnings.warn(
                "no parameter of the prepared model changed between two steps; give the optimizer "
                f"{self._owner}.model.parameters(), not those of the original model",
                stacklevel=3,
            )
