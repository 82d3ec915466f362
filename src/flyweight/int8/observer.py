"""Observe the range of activations, then fake-quantize them to it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flyweight.errors import DataError, ModelError

__all__ = ["Observer"]


class Observer(nn.Module):
    """Calibrate the range of activations, then fake-quantize them to 256 levels.

    While ``observing``, it averages over the batches the two quantiles that leave ``tail`` of the
    values on either side (0: the minimum and maximum); zero is always within. After that levels are
    multiples of ``scale``, and the gradient goes straight through where nothing is clipped.

    Args:
        tail: fraction of the activations that may be clipped on either side, below a half.

    Raises:
        ModelError: the tail is no such fraction, or activations are not finite.
        DataError: there are no activations.

    Example:
        >>> observer = Observer()
        >>> _ = observer(torch.tensor([0.0, 2.55]))
        >>> observer.observing = False
        >>> observer(torch.tensor([1.004, 9.0])).tolist()
        [1.0, 2.549999952316284]

    Source: Jacob et al. 2018, "Quantization and training of neural networks for efficient
    integer-arithmetic-only inference", §3.
    """

    low: Tensor
    high: Tensor
    batches: Tensor

    def __init__(self, *, tail: float = 0.0) -> None:
        super().__init__()
        if not 0 <= tail < 0.5:
            raise ModelError(f"tail is a fraction from 0 up to a half; found {tail}")
        self.tail = tail
        self.observing = True
        for name in ("low", "high", "batches"):
            self.register_buffer(name, torch.zeros(()))

    @torch.no_grad()
    def _observe(self, inputs: Tensor) -> None:
        flat = inputs.detach().flatten().float()
        if not flat.numel():
            raise DataError("there is no activation to measure the range of; give larger batches")
        if not bool(torch.isfinite(flat).all()):
            raise ModelError("activations hold NaN or infinity and have no range; repair the model")
        below = int(self.tail * flat.numel())
        low = flat.kthvalue(below + 1).values if below else flat.min()
        high = flat.kthvalue(flat.numel() - below).values if below else flat.max()
        self.batches += 1
        self.low += (low.clamp(max=0) - self.low) / self.batches
        self.high += (high.clamp(min=0) - self.high) / self.batches

    @property
    def scale(self) -> float:
        """Distance between two levels, above 0."""
        return max(float(self.high - self.low) / 255, 1e-12)

    @property
    def zero_point(self) -> int:
        """The level, from −128 to 127, that stands for zero."""
        return round(-128 - float(self.low) / self.scale)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the inputs, of any shape, observed or rounded."""
        if self.observing:
            self._observe(inputs)
            return inputs
        return torch.fake_quantize_per_tensor_affine(inputs, self.scale, self.zero_point, -128, 127)
