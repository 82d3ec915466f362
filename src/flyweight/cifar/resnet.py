"""ResNets for 32×32 images: 6n+2 layers in three stages of 16, 32 and 64 channels."""

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
    """Shortcut A: no parameters; take every second pixel and pad the new channels with zeros.

    Where a block has fewer channels out than in (after a 32-channel stem), the surplus is dropped.
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
    """Two 3×3 convolutions, each followed by batch normalisation, around a shortcut."""

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
    """A residual network for CIFAR-10: images N×3×32×32 in, logits N×10 out.

    The stem is a 3×3 convolution of ``stem_width`` channels; the head a global average pool and
    one linear layer. With ``depth=20``, shortcut A and a 16-channel stem it has 269,722 parameters.

    Raises ModelError where ``depth`` is not 6n+2 or an option is unknown.

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
            raise ModelError(f"a CIFAR ResNet has 6n+2 layers; {depth} is not such a number")
        if shortcut not in ("A", "B"):
            raise ModelError(f"shortcut {shortcut!r} is unknown; choose 'A' or 'B'")
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
