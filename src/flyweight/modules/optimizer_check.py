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
        self._before: tuple[list[int], list[float]] | None = None
        self._over = False

    def remember(self) -> None:
        """Remember the parameters, at the end of a step."""
        if not self._over:
            self._before = _fingerprint(self._trained())

    def compare(self) -> None:
        """Compare the parameters with those remembered, once; warn if none changed."""
        if self._over or self._before is None:
            return
        trained = self._trained()
        gradients = [p.grad for p in trained if p.grad is not None]
        if _fingerprint(trained) != self._before:
            self._over = True
        elif all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
            self._over = True
            warnings.warn(
                "no parameter of the prepared model changed between two steps; give the optimizer "
                f"{self._owner}.model.parameters(), not those of the original model",
                stacklevel=3,
            )

    def _trained(self) -> list[nn.Parameter]:
        return [p for p in self._model.parameters() if p.requires_grad]


def _fingerprint(parameters: list[nn.Parameter]) -> tuple[list[int], list[float]]:
    """Return the versions and sums of parameters.

    A step with a learning rate of 0 changes the versions only, a write to ``.data`` the sums only.
    """
    versions = [0 if p.is_inference() else p._version for p in parameters]
    sums = [p.detach().float().abs().sum().cpu() for p in parameters]
    return versions, torch.stack(sums).tolist() if sums else []
