"""Augmentation of CIFAR-10 images, batch by batch on the device that holds them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from flyweight.cifar.dataset import CIFAR10_MEAN, CIFAR10_STD, Split
from flyweight.errors import DataError

__all__ = [
    "NATIVE_SIZES",
    "PROGRESSIVE_SIZES",
    "AugmentedImages",
    "alternating_crops",
    "augment",
    "calibration_batches",
    "normalize",
]

PADDING = 4
_CALIBRATION_BATCH = 64
_EPOCH_STRIDE = 1_000_003  # seeds of consecutive runs share no generator within this many epochs

PROGRESSIVE_SIZES = ((16, 0.25), (20, 0.2), (24, 0.2), (28, 0.15), (32, 0.2))
"""Images that grow from 16 to 32 pixels over the epochs: 0.57 of the arithmetic."""

NATIVE_SIZES = ((24, 0.3), (28, 0.2), (32, 0.5))
"""Image sizes for "alternating" augmentation, whose crops are not scaled."""


def normalize(images: Tensor) -> Tensor:
    """Scale pixels to zero mean and unit variance per channel over CIFAR-10.

    Args:
        images: uint8, N×3×H×W.

    Returns:
        float32, N×3×H×W.

    Example:
        >>> normalize(torch.zeros(1, 3, 1, 1, dtype=torch.uint8)).flatten()
        tensor([-1.9892, -1.9802, -1.7070])
    """
    mean = torch.tensor(CIFAR10_MEAN, device=images.device).view(1, 3, 1, 1) * 255
    std = torch.tensor(CIFAR10_STD, device=images.device).view(1, 3, 1, 1) * 255
    return (images.float() - mean) / std


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Crop each image at random after padding by 4 zero pixels, and flip half of them.

    Args:
        images: uint8, N×3×H×W.
        generator: of the CPU, from which all offsets are drawn, so that every device gets the
            same batch.

    Returns:
        uint8, N×3×H×W in channels-last memory order.

    Example:
        >>> images = torch.ones(2, 3, 32, 32, dtype=torch.uint8)
        >>> augment(images, torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3, 32, 32])
    """
    return _cropped(images, *_drawn_crops(len(images), generator))


def _drawn_crops(count: int, generator: torch.Generator) -> Sequence[Tensor]:
    """Rows and columns where crops begin, and which are mirrored, of so many images."""
    offsets = 2 * PADDING + 1
    top = torch.randint(0, offsets, (count,), generator=generator)
    left = torch.randint(0, offsets, (count,), generator=generator)
    return top, left, torch.randint(0, 2, (count,), generator=generator, dtype=torch.bool)


def _cropped(images: Tensor, top: Tensor, left: Tensor, flip: Tensor) -> Tensor:
    """Crops of images after padding with zeros."""
    count, _, height, width = images.shape
    device = images.device
    top, left, flip = top.to(device), left.to(device), flip.to(device)
    padded = F.pad(images, (PADDING, PADDING, PADDING, PADDING))
    rows = top[:, None] + torch.arange(height, device=device)
    columns = torch.arange(width, device=device).expand(count, width)
    columns = left[:, None] + torch.where(flip[:, None], width - 1 - columns, columns)
    return _gathered(padded, rows, columns)


def alternating_crops(
    images: Tensor, flip: Tensor, size: int, generator: torch.Generator
) -> Tensor:
    """Crop each image at random at its own scale after reflection padding; flip those named.

    Args:
        images: uint8, N×3×H×H.
        flip: bool, N, which images to mirror.
        size: side of the crops in pixels. Each of nine offsets in either direction is as likely.
        generator: of the CPU, from which the offsets are drawn.

    Returns:
        float32 pixel values, N×3×size×size in channels-last memory order.

    Source: Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU", §3.6, for the flips.
    """
    top, left = _drawn_offsets(len(images), generator)
    return _reflected_crops(images, flip, size, top, left)


def _drawn_offsets(count: int, generator: torch.Generator) -> Sequence[Tensor]:
    """Rows and columns where crops begin, of so many images."""
    return torch.randint(0, 2 * PADDING + 1, (2, count), generator=generator).unbind()


def _reflected_crops(images: Tensor, flip: Tensor, size: int, top: Tensor, left: Tensor) -> Tensor:
    device = images.device
    pad = (size + 2 * PADDING - images.shape[2]) // 2
    padded = F.pad(images.float(), (pad, pad, pad, pad), mode="reflect") if pad else images.float()
    pixels = torch.arange(size, device=device)
    rows = top.to(device)[:, None] + pixels
    columns = torch.where(flip.to(device)[:, None], size - 1 - pixels, pixels)
    return _gathered(padded, rows, left.to(device)[:, None] + columns)


def _gathered(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pixels at ``rows`` N×H and ``columns`` N×W of each image, channels last in memory."""
    batch = torch.arange(len(images), device=images.device)
    # An index on dimensions 0, 2 and 3 puts the channels last, as the network reads them.
    picked = images[batch[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2)


class AugmentedImages:
    """Shuffled, augmented and normalized batches of a split; a sized iterable.

    Each pass gives ``len(self)`` batches (float32 N×3×S×S in channels-last order, int64 N), where
    a last, shorter batch is left out. All is drawn from the seed and the epoch, on the CPU, so the
    batches of an epoch are the same each time and on every device. They are on the device of the
    split. A split smaller than a batch gives one batch of all its images.

    Args:
        split: images and labels.
        batch_size: images per batch.
        seed: of the order, the crops and the flips.
        image_sizes: pairs of a side in pixels, 8 to 32, and the fraction of the epochs with it.
        augmentation: "standard" crops after padding with zeros, flips at random and scales to
            smaller sizes; "alternating" pads by reflection, crops smaller sizes without scaling,
            and flips each image in every other epoch.
        epochs: of the run; needed with several image sizes.
        views: how many epochs have crops and flips of their own, before these come again in another
            order, so that a `flyweight.training.TeacherTable` knows them; 0 for all.

    Raises:
        DataError: the split is empty, or an argument is out of its bounds.

    Example:
        >>> split = Split(torch.zeros(20, 3, 32, 32, dtype=torch.uint8), torch.arange(20) % 10)
        >>> data = AugmentedImages(split, batch_size=8)
        >>> [tuple(images.shape) for images, labels in data]
        [(8, 3, 32, 32), (8, 3, 32, 32)]
    """

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int = 128,
        seed: int = 0,
        image_sizes: Sequence[tuple[int, float]] = ((32, 1.0),),
        augmentation: Literal["standard", "alternating"] = "standard",
        epochs: int | None = None,
        views: int = 0,
    ) -> None:
        if not len(split):
            raise DataError("the split holds no images; give one with at least one image")
        if batch_size < 1:
            raise DataError(f"batch_size is {batch_size}; give at least 1")
        if augmentation not in ("standard", "alternating"):
            raise DataError(f"augmentation {augmentation!r} is unknown; give standard, alternating")
        known = all(8 <= size <= 32 and share >= 0 for size, share in image_sizes)
        if not known or not math.isclose(sum(share for _, share in image_sizes), 1.0):
            raise DataError(
                f"image_sizes is {image_sizes!r}; give pairs of a size from 8 to 32 and a fraction "
                "of the epochs, which sum to 1"
            )
        if len(image_sizes) > 1 and epochs is None:
            raise DataError("several image_sizes need the number of epochs; give epochs=")
        self.split = split
        self.batch_size = batch_size
        self.seed = seed
        self.image_sizes = tuple(image_sizes)
        self.augmentation = augmentation
        if views < 0:
            raise DataError(f"views is {views}; give 1 or more, or 0 for one in each epoch")
        self.epochs = epochs
        self.views = views
        self._epoch = 0
        self._run_seed = 0

    def __len__(self) -> int:
        return max(1, len(self.split) // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, counted from 0, that the next pass belongs to."""
        self._epoch = epoch

    def set_seed(self, seed: int) -> None:
        """Add the seed of a run to that of the data, so that each run sees another order."""
        self._run_seed = seed

    @property
    def image_size(self) -> int:
        """Side of the images of this epoch, in pixels.

        Example:
            >>> split = Split(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.zeros(1))
            >>> data = AugmentedImages(split, image_sizes=((16, 0.5), (32, 0.5)), epochs=10)
            >>> data.set_epoch(4)
            >>> data.image_size
            16
        """
        boundary = 0.0
        for size, share in self.image_sizes:
            boundary += share * (self.epochs or 0)
            if self._epoch < boundary - 1e-9:
                return size
        return self.image_sizes[-1][0]

    @property
    def _view(self) -> int:
        """The epoch whose crops and flips this one has."""
        return self._epoch % self.views if self.views else self._epoch

    def _flips(self, seed: int) -> Tensor | None:
        """Which images alternating augmentation mirrors in this epoch."""
        if self.augmentation == "standard":
            return None
        start = torch.Generator().manual_seed(seed)
        return torch.randint(0, 2, (len(self.split),), generator=start) % 2 == self._view % 2

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        labels = self.split.labels
        seed, size = self.seed + self._run_seed, self.image_size
        generator = torch.Generator().manual_seed(seed * _EPOCH_STRIDE + self._epoch)
        flips = self._flips(seed)
        order = torch.randperm(len(labels), generator=generator).to(labels.device)
        batch_size = min(self.batch_size, len(labels))
        draw = _drawn_crops if flips is None else _drawn_offsets
        again = torch.Generator().manual_seed(seed * _EPOCH_STRIDE + self._view)
        of_all = [*draw(len(labels), again)] if self.views else None
        for start in range(0, len(self) * batch_size, batch_size):
            index = order[start : start + batch_size]
            images, places = self.split.images[index], index.cpu()
            if of_all is None:
                drawn = [*draw(len(index), generator)]
            else:
                drawn = [each[places] for each in of_all]
            if flips is None:
                cut = _cropped(images, *drawn)
            else:
                cut = _reflected_crops(images, flips[places], size, *drawn)
            batch = normalize(cut)
            if size != batch.shape[-1]:
                batch = F.interpolate(
                    batch, size=size, mode="bilinear", antialias=True, align_corners=False
                )
            yield batch.contiguous(memory_format=torch.channels_last), labels[index]


def calibration_batches(
    split: Split, number: int, *, seed: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Draw examples without augmentation, the same at each call, in batches of 64.

    Args:
        split: images and labels.
        number: of examples, at most those there are.
        seed: of the draw.

    Yields:
        float32 images N×3×32×32 and int64 labels N.

    Example:
        >>> split = Split(torch.zeros(100, 3, 32, 32, dtype=torch.uint8), torch.arange(100))
        >>> [tuple(inputs.shape) for inputs, _ in calibration_batches(split, 80)]
        [(64, 3, 32, 32), (16, 3, 32, 32)]
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(split.labels), generator=generator)[:number]
    for index in torch.split(drawn.to(split.labels.device), _CALIBRATION_BATCH):
        yield normalize(split.images[index]), split.labels[index]
