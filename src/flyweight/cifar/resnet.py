"""Residual networks for 32×32 images: 6n+2 layers in stages of 16, 32 and 64 channels."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flyweight.errors import ModelError

__all__ = ["CifarResNet", "Shortcut"]

Shortcut = Literal["A", "B"]

STAGE_WIDTHS = (16, 32, 64)


class PadShortcut(nn.Module):
    """Connect two stages without parameters (shortcut A): subsample, and pad channels with zeros.

    A block with fewer output than input channels, after a stem of 32, drops the surplus.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.channels_out = channels_out
        self.stride = stride
        self.before = max(0, channels_out - channels_in) // 2
        self.after = max(0, channels_out - channels_in) - self.before

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, : self.channels_out, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """Add a shortcut to two 3×3 convolutions, each with batch normalization."""

    def __init__(
        self, channels_in: int, channels_out: int, stride: int, shortcut: Shortcut
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.shortcut: nn.Module
        if stride == 1 and channels_in == channels_out:
            self.shortcut = nn.Identity()
        elif shortcut == "A":
            self.shortcut = PadShortcut(channels_in, channels_out, stride)
        else:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False),
                nn.BatchNorm2d(channels_out),
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class CifarResNet(nn.Module):
    """Classify images N×3×32×32 into logits N×10 by a residual network.

    The stem is a 3×3 convolution, the head a global average pool and one linear layer.

    Args:
        depth: number of layers, 6n+2.
        shortcut: between stages; "A" has no parameters, "B" is a 1×1 convolution.
        stem_width: channels of the stem.
        classes: number of logits.

    Attributes:
        architecture: the name that `create_model` has for it, if it has one.

    Raises:
        ModelError: ``depth`` is not 6n+2, or the shortcut is unknown.

    Example:
        >>> sum(p.numel() for p in CifarResNet(20).parameters())
        269722

    Source: He et al. 2016, "Deep residual learning for image recognition", §4.2.
    """

    def __init__(
        self, depth: int, *, shortcut: Shortcut = "A", stem_width: int = 16, classes: int = 10
    ) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ModelError(f"depth is {depth} and not 6n+2; give 20, 32, 44, 56 or 110, say")
        if shortcut not in ("A", "B"):
            raise ModelError(f"shortcut {shortcut!r} is unknown; choose 'A' or 'B'")
        stem = "" if stem_width == STAGE_WIDTHS[0] else f"-stem{stem_width}"
        self.architecture = f"resnet{depth}" + ("-b" if shortcut == "B" else "") + stem
        self.conv1 = nn.Conv2d(3, stem_width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem_width)
        stages = []
        channels = stem_width
        for stage, width in enumerate(STAGE_WIDTHS):
            blocks = []
            for block in range((depth - 2) // 6):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(BasicBlock(channels, width, stride, shortcut))
                channels = width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.linear = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)))
        x = self.stages(x)
        logits: Tensor = self.linear(torch.mean(x, dim=(2, 3)))
        return logits
