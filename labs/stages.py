"""The stages of the library over CIFAR-10, as the exercises run them: prune, quantize."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import nn

from flyweight.batches import Batches
from flyweight.cifar import AugmentedImages, Cifar10, calibration_batches
from flyweight.compressed import CompressedModel
from flyweight.pruning import Pruner, PruningConfig
from flyweight.quantization import QuantizationConfig, Quantizer
from flyweight.training import (
    Progress,
    TrainingConfig,
    choose_device,
    optimizer_steps,
    train_,
)
from labs.teacher import dense_teacher

__all__ = ["BATCH_SIZE", "prune", "quantize", "training_images"]

BATCH_SIZE = 128


def training_images(data: Cifar10, device: str, *, batch_size: int = BATCH_SIZE) -> AugmentedImages:
    """Return augmented batches of the 45,000 training images on a device."""
    split = data.split("train45k").to(choose_device(device))
    return AugmentedImages(split, batch_size=batch_size)


def prune(
    model: nn.Module,
    config: PruningConfig,
    training: TrainingConfig,
    *,
    data: Cifar10,
    device: str = "auto",
    seed: int = 0,
    states: Path | None = None,
    progress: Progress | None = None,
) -> nn.Module:
    """Prune a model while it retrains, or at once with no epochs; return a new one on the CPU.

    Args:
        model: is not changed.
        config: what to prune.
        training: how to retrain; the shipped network is the teacher.
        data: CIFAR-10.
        device: to train on.
        seed: of all that is drawn.
        states: folder for the state of training; None keeps none.
        progress: called during training.
    """
    images = training_images(data, device) if training.epochs else []
    pruner = Pruner(
        copy.deepcopy(model).to(choose_device(device)),
        config,
        steps=_steps(images, training),
        epochs=training.epochs,
        seed=seed,
    )
    _train(pruner, images, training, device, seed, states and states / "prune.pt", progress)
    return pruner.finalize().cpu().eval()


def quantize(
    model: nn.Module,
    config: QuantizationConfig,
    training: TrainingConfig,
    *,
    data: Cifar10,
    device: str = "auto",
    seed: int = 0,
    states: Path | None = None,
    progress: Progress | None = None,
) -> CompressedModel:
    """Quantize a model while it trains, or at once with no epochs.

    Arguments are those of `prune`.
    """
    images = training_images(data, device) if training.epochs else []
    calibration = None
    if config.needs_data:
        split = data.split("train45k").to(choose_device(device))
        calibration = list(calibration_batches(split, config.calibration_examples, seed=seed))
    quantizer = Quantizer(
        copy.deepcopy(model).to(choose_device(device)),
        config,
        steps=_steps(images, training),
        data=calibration,
        seed=seed,
    )
    _train(quantizer, images, training, device, seed, states and states / "quantize.pt", progress)
    quantizer.model.cpu()
    return quantizer.finalize(float_dtype="float16")


def _steps(images: Batches, training: TrainingConfig) -> int:
    return optimizer_steps(images, training) if training.epochs else 0


def _train(
    stage: Pruner | Quantizer,
    images: Batches,
    training: TrainingConfig,
    device: str,
    seed: int,
    checkpoint: Path | None,
    progress: Progress | None,
) -> None:
    if not training.epochs:
        return
    teacher: nn.Module | None = dense_teacher() if training.distillation else None
    target: torch.device = choose_device(device)
    train_(
        stage.model,
        images,
        training,
        teacher=teacher,
        stage=stage,
        device=target,
        seed=seed,
        checkpoint=checkpoint,
        progress=progress,
    )
