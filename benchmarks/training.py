"""Images a second of ``flyweight train`` against a plain PyTorch loop, on one machine in one run.

    python -m benchmarks.training [--device auto] [--repeats 5] [--images 6400]

The plain loop is what a tutorial shows: a Dataset that crops, flips and normalizes one image at a
time, a DataLoader, fp32, the default memory order. It runs with the number of loader workers that
turned out fastest here. Ours is `flyweight.training.train_` without a moving average, which the
plain loop has not either: once on images of full size, so that network and arithmetic are the same,
and once with the images that grow over the epochs, as ``flyweight train`` can do it. Repeats of all
alternate, after a warm-up of each; the median counts. Rows are added to
``benchmarks/results/training.csv``.
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from benchmarks.report import append_rows
from flyweight import cifar
from flyweight._provenance import source_commit
from flyweight.cifar import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    PROGRESSIVE_SIZES,
    Split,
    create_model,
    load_cifar10,
)
from flyweight.training import TrainingConfig, choose_device, describe_device, train_

ARCHITECTURE = "resnet20"
BATCH_SIZE = 128
EPOCHS = 20  # of the growing images, so that every size has its share


class Loop(NamedTuple):
    """One way to train; ``run`` trains on ``images`` images in all."""

    name: str
    workers: int
    images: int
    run: Callable[[], object]


class AugmentedImages(Dataset[tuple[Tensor, int]]):
    """One image at a time: pad, crop, flip, normalize."""

    def __init__(self, data: Split) -> None:
        self.data = data
        self.mean = torch.tensor(CIFAR10_MEAN).view(3, 1, 1)
        self.std = torch.tensor(CIFAR10_STD).view(3, 1, 1)

    def __len__(self) -> int:
        return len(self.data.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        padded = F.pad(self.data.images[index], (4, 4, 4, 4))
        top, left, flip = (int(torch.randint(0, high, ())) for high in (9, 9, 2))
        image = padded[:, top : top + 32, left : left + 32]
        if flip:
            image = image.flip(2)
        return (image / 255 - self.mean) / self.std, int(self.data.labels[index])


def plain_loop(data: Split, device: torch.device, workers: int) -> Loop:
    """Build the loop of the tutorials; its workers stay alive from one run to the next."""
    model = create_model(ARCHITECTURE, seed=0).to(device)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    loader = DataLoader(
        AugmentedImages(data),
        batch_size=BATCH_SIZE,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )

    def run() -> None:
        model.train()
        total = 0.0
        for images, labels in loader:
            loss = F.cross_entropy(model(images.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()

    return Loop("plain PyTorch", workers, len(loader) * BATCH_SIZE, run)


def our_loop(
    name: str, data: Split, epochs: int, sizes: Sequence[tuple[int, float]] = ((32, 1.0),)
) -> Loop:
    """Build ours; ``data`` lies on the device already, where it stays for the whole training."""
    model: nn.Module = create_model(ARCHITECTURE, seed=0)
    device = data.images.device
    config = TrainingConfig(epochs=epochs)
    batches = cifar.AugmentedImages(data, batch_size=BATCH_SIZE, image_sizes=sizes, epochs=epochs)
    images = len(batches) * BATCH_SIZE * epochs
    return Loop(name, 0, images, lambda: train_(model, batches, config, device=device))


def images_per_second(loop: Loop, device: torch.device) -> float:
    """Run a loop once and time it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    loop.run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return loop.images / (time.perf_counter() - start)


def fastest_plain_loop(data: Split, device: torch.device) -> Loop:
    """Warm up the plain loop with several numbers of workers and keep the fastest."""
    speeds: dict[Loop, float] = {}
    for workers in sorted({0, 2, os.cpu_count() or 1}):
        loop = plain_loop(data, device, workers)
        loop.run()
        speeds[loop] = images_per_second(loop, device)
        print(f"plain PyTorch, {workers} workers: {speeds[loop]:.0f} images/s", flush=True)
    return max(speeds, key=speeds.__getitem__)


def first(data: Split, images: int) -> Split:
    """Give the first images of a split."""
    return Split(data.images[:images].clone(), data.labels[:images].clone())


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and add the rows to the table."""
    parser = argparse.ArgumentParser(description="Images a second against a plain PyTorch loop.")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=6400, help="images in one timed run")
    options = parser.parse_args(arguments)
    if options.images < EPOCHS * BATCH_SIZE:
        parser.error(f"--images must be at least {EPOCHS * BATCH_SIZE}")
    device = choose_device(options.device)
    train = load_cifar10().split("train50k")
    data = first(train, options.images)
    share = first(train, options.images // EPOCHS)

    loops = [
        fastest_plain_loop(data, device),
        our_loop("flyweight", data.to(device), 1),
        our_loop("flyweight, growing images", share.to(device), EPOCHS, PROGRESSIVE_SIZES),
    ]
    speeds: dict[str, list[float]] = {loop.name: [] for loop in loops}
    for loop in loops[1:]:
        loop.run()
    for repeat in range(options.repeats):
        for loop in loops:
            speeds[loop.name].append(images_per_second(loop, device))
            print(f"{repeat + 1}: {loop.name}: {speeds[loop.name][-1]:.0f} images/s", flush=True)

    reference = statistics.median(speeds[loops[0].name])
    rows = [
        {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "commit": source_commit(),
            "device": describe_device(device),
            "cpu": describe_device(torch.device("cpu")),
            "torch": torch.__version__,
            "network": ARCHITECTURE,
            "batch_size": BATCH_SIZE,
            "loop": loop.name,
            "loader_workers": loop.workers,
            "images": loop.images,
            "repeats": options.repeats,
            "images_per_second_median": f"{statistics.median(speeds[loop.name]):.1f}",
            "images_per_second_min": f"{min(speeds[loop.name]):.1f}",
            "images_per_second_max": f"{max(speeds[loop.name]):.1f}",
            "times_plain": f"{statistics.median(speeds[loop.name]) / reference:.2f}",
        }
        for loop in loops
    ]
    append_rows("training", rows)
    for row in rows:
        print(f"{row['loop']}: {row['images_per_second_median']} images/s, {row['times_plain']}x")


if __name__ == "__main__":
    main()
