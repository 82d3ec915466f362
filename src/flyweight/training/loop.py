"""The training loop: one for dense networks, for masked retraining and for trained centroids."""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flyweight.batch_norm import check_unfolded
from flyweight.errors import CheckpointError, ModelError
from flyweight.training.checkpoints import read_checkpoint, write_checkpoint
from flyweight.training.config import TrainingConfig
from flyweight.training.precision import autocast, compiled, memory_format_for
from flyweight.processes import accelerator_for, share_buffers_

__all__ = ["TrainingResult", "Progress", "train_", "prefixed"]

Progress = Callable[[str, int, int | None], None]
"""Called with what is being done, how much is done, and out of how much if that is known."""


class Stateful(Protocol):
    """What has a state of its own while a network trains."""

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes: tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Go on from a state. Raises CheckpointError where it is of something else."""


def prefixed(progress: Progress | None, stage: str) -> Progress | None:
    """The same, told which stage of several it is."""
    if progress is None:
        return None
    return lambda text, done, total: progress(f"{stage}, {text}", done, total)


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """``averaged`` is the moving average of the network, or None without one; ``losses`` has the
    mean training loss of each epoch.

    Floats are averaged, the dense weights behind masks among them; masks and other integers are
    those of the last step.
    """

    averaged: nn.Module | None
    losses: tuple[float, ...]


def train_(
    model: nn.Module,
    data: Any,
    config: TrainingConfig,
    *,
    seed: int = 0,
    teacher: nn.Module | None = None,
    with_optimizer: Callable[[torch.optim.Optimizer], object] | None = None,
    before_step: Callable[[int, int], None] | None = None,
    after_epoch: Callable[[int, float], None] | None = None,
    beside: Stateful | None = None,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> TrainingResult:
    """Train ``model`` in place on the device where it and ``data`` are.

    ``with_optimizer`` is called once with the optimiser, to attach a proximal step to it, say.
    ``before_step(step, steps)`` is called ahead of every step, counted from 0 over the whole run;
    ``after_epoch(epoch, loss)`` after each epoch. With ``checkpoint``, the state is written there
    after every epoch, and a run that finds a state there goes on from it; on one device it reaches
    the same weights, bit for bit, as one that was never stopped, random layers such as dropout
    included: what they draw follows from ``seed`` and the epoch, and the generators of torch are
    left as they were. The state of ``beside`` is kept with it.

    Under ``accelerate launch`` each process trains on its part of every batch, and all reach the
    same weights; batch normalisation sees the part alone. The first process writes the states and
    calls ``after_epoch`` and ``progress``.

    Raises CheckpointError where the state found belongs to another run, or is none, ModelError for
    soft labels without a teacher, and for folded batch normalisation unless that is frozen.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
        >>> data = Split(torch.zeros(20, 3, 32, 32, dtype=torch.uint8), torch.arange(20) % 10)
        >>> config = TrainingConfig(epochs=2, batch_size=10, ema_decay=0.0)
        >>> len(train_(model, data, config).losses)
        2

    Source: Nesterov SGD with a one-cycle schedule (Smith & Topin 2018); distillation after
    Hinton et al. 2015, §2.
    """
    if config.epochs and config.distillation and teacher is None:
        raise ModelError(
            f"a distillation of {config.distillation:g} needs a teacher, which gives the soft "
            "labels; name one, or set it to 0"
        )
    if config.trains_batch_norm:
        check_unfolded(model)
    device = data.images.device
    model.to(device=device, memory_format=memory_format_for(model))  # type: ignore[call-overload]
    accelerator = accelerator_for(device)
    main, part = accelerator.is_main_process, slice(None)
    if accelerator.num_processes > 1:
        part = slice(accelerator.process_index, None, accelerator.num_processes)
    optimizer = _optimizer(model, config)
    if with_optimizer is not None:
        with_optimizer(optimizer)
    averaged = copy.deepcopy(model) if config.ema_decay > 0 else None
    losses: list[float] = []
    run = {"config": repr(config), "seed": seed, "images": len(data.labels)}
    if checkpoint is not None and checkpoint.exists():
        state = read_checkpoint(checkpoint)
        _restore(state, run, checkpoint, model, optimizer, averaged, beside)
        losses = list(state["losses"])

    joined, optimizer = accelerator.prepare(model, optimizer, device_placement=[False, False])
    forward: Callable[[Tensor], Tensor] = compiled(joined, device) if config.compile else joined
    per_epoch = max(1, len(data.labels) // config.batch_size)
    steps = config.epochs * per_epoch
    for epoch in range(len(losses), config.epochs):
        model.train()
        if config.freeze_batch_norm:
            _freeze_batch_norms_(model)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        total = torch.zeros((), device=device)
        size = config.image_size(epoch)
        flips = None
        if config.augmentation == "alternating":
            start = torch.Generator().manual_seed(seed)
            flips = torch.randint(0, 2, (len(data.labels),), generator=start) % 2 == epoch % 2
        batches = training_batches(data, config.batch_size, size, generator, part=part, flips=flips)
        with _random_numbers_of(device, seed, epoch, accelerator.process_index):
            for index, (images, labels) in enumerate(batches):
                step = epoch * per_epoch + index
                if before_step is not None:
                    before_step(step, steps)
                for group in optimizer.param_groups:
                    group["lr"] = config.rate(step, steps)
                with autocast(device, config.precision):
                    loss = _loss(forward, teacher, images, labels, config)
                optimizer.zero_grad(set_to_none=True)
                accelerator.backward(loss)
                optimizer.step()
                if averaged is not None:
                    _average_(averaged, model, min(config.ema_decay, (1 + step) / (10 + step)))
                total += loss.detach()
                if progress is not None and main:
                    progress(f"epoch {epoch + 1} of {config.epochs}", step + 1, steps)
        losses.append(float(accelerator.reduce(total, "mean")) / per_epoch)
        if checkpoint is not None and main:
            state = {
                **run,
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "averaged": None if averaged is None else averaged.state_dict(),
                "losses": losses,
            }
            if beside is not None:
                state["beside"] = beside.state_dict()
            write_checkpoint(state, checkpoint)
        if after_epoch is not None and main:
            after_epoch(epoch, losses[-1])
    share_buffers_(model)
    if averaged is not None:
        share_buffers_(averaged)
    return TrainingResult(averaged=averaged, losses=tuple(losses))


@contextmanager
def _random_numbers_of(device: torch.device, seed: int, epoch: int, process: int) -> Iterator[None]:
    """Let layers draw the numbers of one epoch, whatever was drawn before or is after it."""
    number = random.Random(f"{seed} {epoch} {process}").getrandbits(32)
    cuda = device.type == "cuda"
    with torch.random.fork_rng([device] if cuda else []):
        torch.default_generator.manual_seed(number)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(number)
        yield


def _freeze_batch_norms_(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def _optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.SGD:
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        groups, lr=config.learning_rate, momentum=config.momentum, nesterov=config.momentum > 0
    )


def _loss(
    model: Callable[[Tensor], Tensor],
    teacher: nn.Module | None,
    images: Tensor,
    labels: Tensor,
    config: TrainingConfig,
) -> Tensor:
    logits = model(images).float()
    hard = F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
    if teacher is None or not config.distillation:
        return hard
    with torch.no_grad():
        target = teacher(images).float()
    soft = F.kl_div(
        F.log_softmax(logits / config.temperature, dim=1),
        F.log_softmax(target / config.temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    weight = config.distillation
    return (1 - weight) * hard + weight * config.temperature**2 * soft


@torch.no_grad()
def _average_(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    ours, theirs = averaged.state_dict(), model.state_dict()
    floats = [name for name, value in ours.items() if value.is_floating_point()]
    torch._foreach_lerp_([ours[n] for n in floats], [theirs[n] for n in floats], 1 - decay)
    for name, value in ours.items():
        if not value.is_floating_point():
            value.copy_(theirs[name])


def _are_losses(found: Any) -> bool:
    return isinstance(found, list) and all(isinstance(loss, float) for loss in found)


def _restore(
    state: dict[str, Any],
    run: dict[str, Any],
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    averaged: nn.Module | None,
    beside: Stateful | None,
) -> None:
    wanted = {*run, "model", "optimizer", "averaged", "losses"}
    wanted |= {"beside"} if beside is not None else set()
    lacking = sorted(wanted - set(state))
    if lacking or not _are_losses(state["losses"]):
        raise CheckpointError(
            f"{path} is not the state of such a training run: it has no "
            f"{', '.join(lacking) or 'list of losses'}; delete it and start again"
        )
    for key, value in run.items():
        if state.get(key) != value:
            raise CheckpointError(
                f"{path} belongs to a run with {key} {state.get(key)!r}, this one has {value!r}; "
                "give the same settings or another output folder"
            )
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if averaged is not None:
            averaged.load_state_dict(state["averaged"])
        if beside is not None:
            beside.load_state_dict(state["beside"])
    except (AttributeError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise CheckpointError(f"{path} is the training state of another model") from error
