"""Order of outputs and inputs in the weight of a layer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

__all__ = ["OUTPUTS_FIRST", "WeightLayout"]


@dataclass(frozen=True)
class WeightLayout:
    """Position of the output and input dimensions in a weight.

    Linear layers and convolutions store one output per slice ``weight[k]``. Transposed convolutions
    store inputs first, ``(in, out / groups, *kernel)``, and so does ``Conv1D`` of transformers.

    Attributes:
        transposed: whether inputs are the first dimension, and outputs the second.
        groups: number of groups of a transposed convolution.

    Example:
        >>> import torch
        >>> layout = WeightLayout.of(nn.ConvTranspose2d(4, 6, 3, groups=2))
        >>> rows = layout.outputs_first(torch.zeros(4, 3, 3, 3))
        >>> rows.shape, layout.as_stored(rows).shape
        (torch.Size([6, 2, 3, 3]), torch.Size([4, 3, 3, 3]))
    """

    transposed: bool = False
    groups: int = 1

    @staticmethod
    def of(layer: nn.Module) -> WeightLayout:
        """Return the layout of the weight of a layer."""
        if isinstance(layer, nn.modules.conv._ConvTransposeNd):
            return WeightLayout(transposed=True, groups=layer.groups)
        if any(
            kind.__name__ == "Conv1D" and kind.__module__.startswith("transformers")
            for kind in type(layer).__mro__
        ):
            return WeightLayout(transposed=True)
        return OUTPUTS_FIRST

    @staticmethod
    def at(model: nn.Module, name: str) -> WeightLayout:
        """Return the layout of the parameter ``name`` of a model."""
        return WeightLayout.of(model.get_submodule(name.rpartition(".")[0]))

    def outputs_first(self, weight: Tensor) -> Tensor:
        """Return a weight with one output per slice, ``(out, in / groups, *kernel)``.

        A weight with fewer than two dimensions is returned unchanged.
        """
        return self._swapped(weight)

    def as_stored(self, weight: Tensor) -> Tensor:
        """Return a tensor in the layout of the layer: the inverse of `outputs_first`."""
        return self._swapped(weight)

    def _swapped(self, weight: Tensor) -> Tensor:
        if not self.transposed or weight.ndim < 2:
            return weight
        shape = weight.shape
        grouped = weight.reshape(self.groups, shape[0] // self.groups, *shape[1:])
        return grouped.transpose(1, 2).flatten(0, 1)


OUTPUTS_FIRST = WeightLayout()
"""The layout of linear layers and convolutions."""
