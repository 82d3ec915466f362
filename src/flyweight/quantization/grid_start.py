"""Start training on a grid from weights that were quantized without training."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from flyweight.compressed import CompressedTensor
from flyweight.modules import dense_weight

__all__ = ["grid_step_of", "start_on_grid_"]

_MARGIN = 0.02  # steps between a weight and the ends of the interval of its code
_NEAR = 0.02  # steps between a level and the multiple that it stands for,
_PRECISION = 2.0**-10  # or this part of the level, which may be stored in 16 bits
_REFINEMENTS = 4
_DIVISORS = (1, 2, 3, 4)


def start_on_grid_(
    model: nn.Module, tensors: Mapping[str, CompressedTensor], *, dead_zone: float
) -> dict[str, float]:
    """Move weights so that the method "rate" gives them the codes that they are quantized to.

    Each weight goes to the nearest value in the interval of its code, so that it keeps what is
    known of where it would rather be. Give the steps to a `QuantizationConfig`.

    Args:
        model: as it was before it was quantized; these weights of it change.
        tensors: its quantized weights by name, from `quantize_post_training`. Those with other
            levels than multiples of one step stay as they are.
        dead_zone: of the configuration.

    Returns:
        The step of each weight that is on a grid, by name.

    Example:
        >>> model = nn.Linear(3, 1, bias=False)
        >>> _ = nn.init.constant_(model.weight, 0.45)
        >>> given = CompressedTensor.from_values(torch.tensor([[0.0, 0.5, 1.0]]))
        >>> steps = start_on_grid_(model, {"weight": given}, dead_zone=0.2)
        >>> steps, [round(value, 2) for value in model.weight.tolist()[0]]
        ({'weight': 0.5}, [0.34, 0.45, 0.86])

    Source: the intervals are those of `flyweight.quantization.RateWeight`.
    """
    found = {}
    for name, tensor in tensors.items():
        step = None if tensor.scales is not None else grid_step_of(tensor.levels)
        if step is None:
            continue
        weight = dense_weight(model, name)
        codes = (tensor.dequantize().to(weight.device).double() / step).round()
        sign = torch.where(codes < 0, -1.0, 1.0)
        lowest = codes.abs() - 0.5 + dead_zone + _MARGIN
        highest = codes.abs() + 0.5 + dead_zone - _MARGIN
        lowest = torch.where(codes == 0, -highest, lowest)
        with torch.no_grad():
            along = weight.double() / step * sign
            weight.copy_(torch.clamp(along, lowest, highest) * sign * step)
        found[name] = step
    return found


def grid_step_of(levels: Tensor) -> float | None:
    """Return the step that all levels are near multiples of; None if there is none.

    Example:
        >>> grid_step_of(torch.tensor([-0.5, -0.25, 0.75])), grid_step_of(torch.tensor([1.0, 1.45]))
        (0.25, None)
    """
    values = levels.double().flatten()
    values = values[values != 0].sort().values
    if not values.numel() or not bool(torch.isfinite(values).all()):
        return None
    least = float(torch.cat([values.abs(), values.diff()[values.diff() > 0]]).min())
    for divisor in _DIVISORS:
        step = least / divisor
        for _ in range(_REFINEMENTS):
            codes = (values / step).round()
            step = float((values * codes).sum() / codes.square().sum())
        codes = (values / step).round()
        near = bool(
            ((values / step - codes).abs() <= (_PRECISION * codes.abs()).clamp(min=_NEAR)).all()
        )
        if near and bool((codes != 0).all()) and step > 0:
            return step
    return None
