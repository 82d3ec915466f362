"""Training of a CIFAR-10 network from its initial weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from flyweight.cifar.augmentation import NATIVE_SIZES, AugmentedImages
from flyweight.cifar.dataset import load_cifar10
from flyweight.cifar.evaluation import accuracy
from flyweight.cifar.registry import create_model
from flyweight.training import (
    Progress,
    TrainingConfig,
    check_training_folder,
    choose_device,
    train_into_folder,
)

__all__ = ["ALTERNATING", "STANDARD", "train_resnet"]

STANDARD = TrainingConfig(epochs=100, learning_rate=0.2, ema_decay=0.999)
"""Configuration for "standard" augmentation."""

ALTERNATING = TrainingConfig(epochs=150, learning_rate=0.1, warmup=0.05, ema_decay=0.999)
"""Configuration for "alternating" augmentation with `NATIVE_SIZES`."""


def train_resnet(
    architecture: str,
    output: str | Path,
    *,
    config: TrainingConfig | None = None,
    augmentation: Literal["standard", "alternating"] = "standard",
    image_sizes: Sequence[tuple[int, float]] | None = None,
    batch_size: int = 128,
    split: Literal["train45k", "train50k"] = "train45k",
    data: str | Path | None = None,
    device: str = "auto",
    seed: int = 0,
    resume: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a network on CIFAR-10; write its weights, a card and the history of the run.

    Of the last epoch and the moving average, the one that is better on the 5,000 validation
    images is written, or the average where all 50,000 images are trained on. The test images
    decide nothing.

    Args:
        architecture: one of `architectures`.
        output: folder for ``model.safetensors``, ``card.json`` and ``history.jsonl``; while the
            run lasts it also holds ``checkpoint.pt``.
        config: optimizer and schedule; by default the one for the augmentation.
        augmentation: of `AugmentedImages`.
        image_sizes: of `AugmentedImages`; by default 32 pixels, and `NATIVE_SIZES` for
            "alternating".
        batch_size: images per batch.
        split: the images to train on.
        data: a folder that holds ``cifar-10-batches-py``; None finds or downloads the data.
        device: "auto" is CUDA where available.
        seed: of the initial weights, the order and the augmentation.
        resume: continue from the state in the folder.
        progress: called with the phase, how much is done, and of how much.

    Returns:
        The card; accuracies are fractions.

    Raises:
        CheckpointError: ``output`` holds a finished run, another run, or any run without
            ``resume``.
        DataError: the data is missing, damaged or not CIFAR-10.
        ModelError: the architecture is unknown.
        RecipeError: the configuration has no epochs.

    Example:
        >>> card = train_resnet("resnet20", "runs/resnet20")  # doctest: +SKIP
    """
    alternating = augmentation == "alternating"
    config = config or (ALTERNATING if alternating else STANDARD)
    image_sizes = image_sizes or (NATIVE_SIZES if alternating else ((32, 1.0),))
    model = create_model(architecture, seed=seed)
    check_training_folder(Path(output), resume=resume)  # before a download
    target = choose_device(device)
    dataset = load_cifar10(data, progress=progress)
    images = AugmentedImages(
        dataset.split(split).to(target),
        batch_size=batch_size,
        image_sizes=image_sizes,
        augmentation=augmentation,
        epochs=config.epochs,
    )
    held_out = dataset.split("validation").to(target) if split == "train45k" else None
    return train_into_folder(
        model,
        images,
        output,
        config,
        validate=None if held_out is None else partial(accuracy, split=held_out),
        evaluate=partial(accuracy, split=dataset.split("test").to(target)),
        metric="accuracy",
        details={
            "architecture": architecture,
            "split": split,
            "batch_size": batch_size,
            "image_sizes": image_sizes,
            "augmentation": augmentation,
        },
        device=target,
        seed=seed,
        resume=resume,
        progress=progress,
    )
