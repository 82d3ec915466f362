"""Training loop for any module, loader and loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from flyweight._progress import Progress
from flyweight.batches import Batches, Loss
from flyweight.processes import share_buffers_
from flyweight.training.config import TrainingConfig
from flyweight.training.loaders import reset_
from flyweight.training.optimizers import OptimizerFactory
from flyweight.training.trainer import Stage, Trainer

__all__ = ["TrainingResult", "prefixed", "train_"]


def prefixed(progress: Progress | None, phase: str) -> Progress | None:
    """Put the name of a phase before the texts of a progress callback.

    Example:
        >>> prefixed(lambda text, done, total: print(text), "fine-tune")("epoch 1 of 2", 0, None)
        fine-tune, epoch 1 of 2
    """
    if progress is None:
        return None
    return lambda text, done, total: progress(f"{phase}, {text}", done, total)


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """Result of a training run.

    Attributes:
        model: the moving average where the configuration asks for one, else the trained model.
        averaged: the moving average, or None. Floats are averaged, the dense weights behind masks
            among them; masks and other integers are those of the last step.
        losses: mean training loss of each epoch.
    """

    model: nn.Module
    averaged: nn.Module | None
    losses: tuple[float, ...]


def train_(
    model: nn.Module,
    data: Batches,
    config: TrainingConfig,
    *,
    loss: Loss | None = None,
    teacher: nn.Module | None = None,
    optimizer: OptimizerFactory | None = None,
    attach: Callable[[torch.optim.Optimizer], object] | None = None,
    stage: Stage | None = None,
    device: str | torch.device = "auto",
    seed: int = 0,
    checkpoint: Path | None = None,
    after_epoch: Callable[[int, float], None] | None = None,
    progress: Progress | None = None,
) -> TrainingResult:
    """Train a model in place.

    The model moves to the device; batches move there one by one. Of a `DataLoader` that shuffles,
    the order of an epoch follows from ``seed`` and the epoch. With ``checkpoint``, a state is
    written after every epoch, and a run that finds one continues from it: on one device it
    reaches the same weights, bit for bit, as a run without a stop, if the loader gives the same
    batches in the same epoch. Random layers draw what follows from ``seed`` and the epoch; the
    generators of torch are restored afterwards.

    Under ``accelerate launch`` each process trains on its part of every batch, unless the sampler
    is a `DistributedSampler`, and all reach the same weights; batch normalization sees the part
    alone. The first process writes the states and calls ``after_epoch`` and ``progress``.

    Args:
        model: any module; is changed.
        data: sized iterable of batches; ``set_epoch(epoch)`` is called on it, its sampler or its
            data set, and ``set_seed(seed)`` on it, where they exist.
        config: optimizer, schedule, averaging, distillation.
        loss: scalar loss of a model and a batch; by default cross-entropy for integer targets,
            and the model's own loss for mappings.
        teacher: gives the soft targets of distillation.
        optimizer: builds an optimizer in the place of the configured one; the learning rates of
            its groups are the peaks of the schedule.
        attach: called once with the optimizer, to attach a proximal step to it, say.
        stage: follows every step, is checked after every epoch, and saved in the state.
        device: "auto", or a device as torch knows it.
        seed: of the order of the batches and of random layers.
        checkpoint: file of the state.
        after_epoch: called with the epoch, counted from 0, and its mean loss.
        progress: called after every step of the optimizer.

    Raises:
        CheckpointError: the state found is damaged or belongs to another run.
        DataError: ``data`` has no length, is empty, or gives batches of no known form.
        ModelError: distillation without a teacher, a loss that is not a finite scalar, batch
            normalization that is folded and not frozen, or a failed check of ``stage``.
        RecipeError: a setting has no effect on this run.

    Example:
        >>> model = nn.Linear(8, 3)
        >>> data = [(torch.randn(4, 8), torch.tensor([0, 1, 2, 0])) for _ in range(5)]
        >>> config = TrainingConfig(epochs=2, learning_rate=0.1)
        >>> len(train_(model, data, config, device="cpu").losses)
        2

    Source: Nesterov SGD with a one-cycle schedule (Smith & Topin 2018).
    """
    run = Trainer(model, data, config, loss, teacher, device, seed)
    run.prepare_(optimizer, attach, stage, checkpoint)
    main = run.accelerator.is_main_process
    try:
        for epoch in range(len(run.losses), config.epochs):
            run.train_epoch_(epoch, progress if main else None)
            if stage is not None:
                stage.check()
            if checkpoint is not None and main:
                run.write(checkpoint)
            if after_epoch is not None and main:
                after_epoch(epoch, run.losses[-1])
    except KeyboardInterrupt as interrupt:
        interrupt.add_note(run.position(checkpoint))
        raise
    finally:
        reset_(data)
    share_buffers_(model)
    if run.averaged is not None:
        share_buffers_(run.averaged)
    result = model if run.averaged is None else run.averaged
    return TrainingResult(model=result, averaged=run.averaged, losses=tuple(run.losses))
