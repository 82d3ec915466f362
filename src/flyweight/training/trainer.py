"""One run of training: its optimizer, epochs, losses and state."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from flyweight._progress import Progress
from flyweight.batch_norm import check_unfolded
from flyweight.batches import (
    Batch,
    Batches,
    Loss,
    default_loss,
    examples_in,
    inputs_of,
    slice_batch,
    to_device,
)
from flyweight.errors import CheckpointError, DataError, FlyweightError, ModelError, RecipeError
from flyweight.processes import accelerator_for
from flyweight.training.checkpoints import read_checkpoint, write_checkpoint
from flyweight.training.config import TrainingConfig
from flyweight.training.distillation import distilled_loss, frozen_teacher
from flyweight.training.loaders import (
    batches_of_epoch,
    is_sharded,
    layer_randomness,
    optimizer_steps,
)
from flyweight.training.optimizers import (
    OptimizerFactory,
    average_,
    configured_optimizer,
    restore_,
    set_rates_,
)
from flyweight.training.precision import (
    autocast,
    choose_device,
    compiled,
    memory_format_for,
    precision_for,
)
from flyweight.training.total_loss import TotalLoss

__all__ = ["Stage", "Trainer"]


class Stage(Protocol):
    """Stage that follows the steps of a training run, such as a `Pruner` or a `Quantizer`."""

    def step(self) -> None:
        """Follow the schedule after a step of the optimizer."""

    def check(self) -> None:
        """Raise ModelError where the model has lost what the stage maintains."""

    def penalty(self) -> Tensor | None:
        """Return a scalar that is added to the loss of each batch, or None."""

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` takes: tensors and plain values."""

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Continue from a state. Raises CheckpointError where it belongs to something else."""


class Trainer:
    """Carry out one call of `train_`, whose arguments it takes."""

    def __init__(
        self,
        model: nn.Module,
        data: Batches,
        config: TrainingConfig,
        loss: Loss | None,
        teacher: nn.Module | None,
        device: str | torch.device,
        seed: int,
    ) -> None:
        distills = config.epochs > 0 and config.distillation > 0
        if distills and teacher is None:
            raise ModelError(
                f"training.distillation is {config.distillation:g} and there is no teacher; give "
                "teacher=, or set it to 0"
            )
        custom = loss is not None and loss is not default_loss
        if custom and config.label_smoothing:
            raise RecipeError(
                "training.label_smoothing has no effect on a loss of your own; set it to 0"
            )
        if config.trains_batch_norm:
            check_unfolded(model)
        self.model, self.data, self.config, self.seed = model, data, config, seed
        self.device = choose_device(device) if isinstance(device, str) else device
        self.frozen = _frozen_batch_norms(model)
        self.precision = precision_for(model, config.precision)
        form = memory_format_for(model)
        model.to(device=self.device, memory_format=form)  # type: ignore[call-overload]
        self.teacher = None
        if distills and teacher is not None:
            self.teacher = frozen_teacher(teacher, self.device)
        self.smooths = not custom and config.label_smoothing > 0
        self.loss: Loss = loss if loss is not None and custom else default_loss
        if self.smooths:
            self.loss = partial(default_loss, label_smoothing=config.label_smoothing)
        self.steps = optimizer_steps(data, config)
        self.batches = len(data)  # type: ignore[arg-type]  # was checked just now
        self.accelerator = accelerator_for(self.device)
        self.losses: list[float] = []

    def prepare_(
        self,
        factory: OptimizerFactory | None,
        attach: Callable[[torch.optim.Optimizer], object] | None,
        stage: Stage | None,
        checkpoint: Path | None,
    ) -> None:
        """Build the optimizer and continue from a state, if there is one."""
        model, config = self.model, self.config
        self.configured, self.stage = factory is None, stage
        optimizer = configured_optimizer(model, config) if factory is None else factory(model)
        own = {id(parameter) for parameter in model.parameters()}
        groups = optimizer.param_groups
        if not any(id(parameter) in own for group in groups for parameter in group["params"]):
            raise ModelError(
                "optimizer= trains no parameter of the model; build it over the model that it is "
                "given"
            )
        self.peaks = None if factory is None else [float(group["lr"]) for group in groups]
        if attach is not None:
            attach(optimizer)
        self.averaged = copy.deepcopy(model) if config.ema_decay > 0 else None
        self.raw_optimizer = optimizer
        if checkpoint is not None and checkpoint.exists():
            self.restore_(read_checkpoint(checkpoint), checkpoint)
        joined, self.optimizer = self.accelerator.prepare(
            model, optimizer, device_placement=[False, False]
        )
        self.forward = compiled(joined, self.device) if config.compile else joined

    def train_epoch_(self, epoch: int, progress: Progress | None) -> None:
        """Train on all batches once."""
        config, accumulated = self.config, self.config.accumulation_steps
        self.model.train()
        normalizations = _batch_norms(self.model)
        for module in normalizations:
            if config.freeze_batch_norm or module in self.frozen:
                module.eval()
        total = TotalLoss(self.device, self.steps)
        per_epoch = self.steps // config.epochs
        process = self.accelerator.process_index
        with layer_randomness(self.device, self.seed, epoch, process):
            batches = batches_of_epoch(self.data, seed=self.seed, epoch=epoch, number=self.batches)
            for index, batch in enumerate(batches):
                step = epoch * per_epoch + index // accumulated
                first = index % accumulated == 0
                last = index % accumulated == accumulated - 1 or index == self.batches - 1
                size = min(accumulated, self.batches - index // accumulated * accumulated)
                if first:
                    rate = config.rate(step, self.steps)
                    set_rates_(self.raw_optimizer, rate, config, self.peaks)
                value = self.loss_of(self.own_part(batch), first=index == 0)
                total.add_(value, step)
                if first:
                    self.optimizer.zero_grad(set_to_none=True)
                self.accelerator.backward(value if size == 1 else value / size)
                if last:
                    self.optimizer_step_(step)
                    if progress is not None:
                        progress(f"epoch {epoch + 1} of {config.epochs}", step + 1, self.steps)
        for module in normalizations:  # a later run sees those that the user froze, and no others
            module.train(module not in self.frozen)
        total.check()
        mean = self.accelerator.reduce(total.sum, "mean")
        self.losses.append(float(mean) / self.batches)

    def optimizer_step_(self, step: int) -> None:
        """Step the optimizer, then what follows it."""
        if self.config.gradient_clip:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.gradient_clip)
        self.optimizer.step()
        if self.averaged is not None:
            decay = min(self.config.ema_decay, (1 + step) / (10 + step))
            average_(self.averaged, self.model, decay)
        if self.stage is not None:
            self.stage.step()

    def own_part(self, batch: Batch) -> Batch:
        """The examples of a batch that this process trains on, on its device."""
        processes = self.accelerator.num_processes
        if processes > 1 and not is_sharded(self.data):
            if examples_in(batch) < processes:
                raise DataError(
                    f"data gives a batch of {examples_in(batch)} examples for {processes} "
                    "processes; give larger batches, or drop_last=True"
                )
            batch = slice_batch(batch, slice(self.accelerator.process_index, None, processes))
        return to_device(batch, self.device)

    def loss_of(self, batch: Batch, *, first: bool) -> Tensor:
        """The scalar to minimize; a failure on the first batch of an epoch is explained."""
        if self.smooths and isinstance(batch, Mapping):
            raise RecipeError(
                "training.label_smoothing has no effect on batches that are mappings, whose loss "
                "the model computes; set it to 0"
            )
        try:
            with autocast(self.device, self.precision):
                value: Any = self._loss_of(batch)
        except (FlyweightError, torch.OutOfMemoryError):
            raise
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            if not first:
                raise
            reason = str(error).partition("\n")[0]
            shape = getattr(inputs_of(batch), "shape", None)
            kind = "" if shape is None else f", inputs of shape {tuple(shape)}"
            raise ModelError(
                f"the model or the loss failed on the first batch of data{kind} ({reason}); give "
                "batches that the model takes"
            ) from error
        if not isinstance(value, Tensor) or value.numel() != 1:
            shape = getattr(value, "shape", None)
            found = f"a {type(value).__name__}" if shape is None else f"shape {tuple(shape)}"
            raise ModelError(f"the loss is of {found} and not a scalar; return its mean, say")
        if not value.requires_grad:
            raise ModelError(
                "the loss has no gradient; compute it from the outputs of the model, with "
                "parameters that require one"
            )
        extra = None if self.stage is None else self.stage.penalty()
        return value.reshape(()) if extra is None else value.reshape(()) + extra

    def _loss_of(self, batch: Batch) -> Tensor:
        if self.teacher is None:
            return self.loss(self.forward, batch)
        return distilled_loss(
            self.forward,
            self.teacher,
            batch,
            self.loss,
            weight=self.config.distillation,
            temperature=self.config.temperature,
        )

    def identity(self) -> dict[str, Any]:
        """What tells this run from others."""
        return {"config": repr(self.config), "seed": self.seed, "batches": self.batches}

    def write(self, path: Path) -> None:
        """Write the state after an epoch."""
        averaged = None if self.averaged is None else self.averaged.state_dict()
        state = {
            **self.identity(),
            "model": self.model.state_dict(),
            "optimizer": self.raw_optimizer.state_dict(),
            "averaged": averaged,
            "losses": self.losses,
            "stage": None if self.stage is None else self.stage.state_dict(),
        }
        write_checkpoint(state, path)

    def restore_(self, state: dict[str, Any], path: Path) -> None:
        """Continue from a state. Raises CheckpointError where it belongs to another run."""
        identity = self.identity()
        names = {*identity, "model", "optimizer", "averaged", "losses", "stage"}
        if missing := sorted(names - set(state)):
            raise CheckpointError(
                f"{path} is not the state of a training run: it has no {', '.join(missing)}; "
                "delete it and start again"
            )
        for key, value in identity.items():
            if state[key] != value:
                raise CheckpointError(
                    f"{path} belongs to a run with {key} {state[key]!r}, this one has {value!r}; "
                    "use the same settings or another file"
                )
        if not _are_losses(state["losses"], self.config.epochs):
            raise CheckpointError(
                f"{path} has no list of losses, one of each epoch; delete it and start again"
            )
        try:
            self.model.load_state_dict(state["model"])
            restore_(self.raw_optimizer, state["optimizer"], configured=self.configured)
            if self.averaged is not None:
                self.averaged.load_state_dict(state["averaged"])
            if self.stage is not None:
                self.stage.load_state_dict(state["stage"])
        except FlyweightError as error:
            raise CheckpointError(f"{path} cannot be continued: {error}") from error
        except Exception as error:  # what is in a forged state can raise anything
            raise CheckpointError(
                f"{path} is the training state of another model; use the same model or another file"
            ) from error
        self.losses = list(state["losses"])

    def position(self, checkpoint: Path | None) -> str:
        """Where the run is, and whether it can be continued."""
        epoch = min(len(self.losses) + 1, self.config.epochs)
        text = f"training stopped in epoch {epoch} of {self.config.epochs}"
        if checkpoint is None or not checkpoint.exists():
            return f"{text}; no state was saved"
        return f"{text}; the state after epoch {len(self.losses)} is in {checkpoint}"


def _batch_norms(model: nn.Module) -> list[nn.Module]:
    kind = nn.modules.batchnorm._BatchNorm
    return [module for module in model.modules() if isinstance(module, kind)]


def _frozen_batch_norms(model: nn.Module) -> set[nn.Module]:
    """Batch normalization that is in evaluation mode in a model that is not."""
    return {module for module in _batch_norms(model) if model.training and not module.training}


def _are_losses(found: Any, epochs: int) -> bool:
    return (
        isinstance(found, list)
        and len(found) <= epochs
        and all(isinstance(loss, float) and math.isfinite(loss) for loss in found)
    )
