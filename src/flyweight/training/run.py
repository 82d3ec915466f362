"""Train a copy of a model, in memory or into a folder with its results."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flyweight._files import write_atomic
from flyweight._progress import Progress
from flyweight._provenance import source_commit
from flyweight.batches import Batches, Loss, evaluating
from flyweight.errors import CheckpointError, RecipeError
from flyweight.modules import check_config, check_copyable
from flyweight.processes import is_main_process
from flyweight.training.config import TrainingConfig
from flyweight.training.loop import train_
from flyweight.training.optimizers import OptimizerFactory
from flyweight.training.precision import choose_device, describe_device

__all__ = ["check_training_folder", "read_history", "train", "train_into_folder"]

Metric = Callable[[nn.Module], float]

_STATE, _WEIGHTS, _CARD = "checkpoint.pt", "model.safetensors", "card.json"
_HISTORY = "history.jsonl"
_VALIDATE_EVERY = 5  # epochs

_log = logging.getLogger(__name__)


def train(
    model: nn.Module,
    data: Batches,
    config: TrainingConfig | None = None,
    *,
    loss: Loss | None = None,
    teacher: nn.Module | None = None,
    optimizer: OptimizerFactory | None = None,
    device: str | torch.device = "auto",
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: Progress | None = None,
) -> nn.Module:
    """Train a copy of a model on any loader with any loss.

    Args:
        model: any module; stays as it is.
        data: sized iterable of batches: ``(inputs, targets)``, mappings, or inputs alone.
        config: optimizer, schedule, averaging, distillation.
        loss: ``loss(model, batch)``, a scalar; by default cross-entropy for integer targets, and
            the model's own loss for mappings.
        teacher: gives the soft targets of distillation.
        optimizer: ``optimizer(model)`` builds one in the place of the configured one; the learning
            rates of its groups are the peaks of the schedule.
        device: "auto" is CUDA where available.
        seed: of the order of the batches and of random layers.
        checkpoint: file that holds the state after each epoch; a run that was stopped continues
            from it.
        progress: called with the phase, how much is done, and of how much.

    Returns:
        The trained model in evaluation mode, on the device it was trained on: the moving average
        where the configuration asks for one.

    Raises:
        CheckpointError: the state found is damaged or belongs to another run.
        DataError: ``data`` is not as described.
        ModelError: the model cannot be trained so.
        RecipeError: the configuration has no epochs, or a setting without effect.

    Example:
        >>> model = nn.Linear(8, 3)
        >>> data = [(torch.randn(4, 8), torch.tensor([0, 1, 2, 0])) for _ in range(5)]
        >>> trained = train(model, data, TrainingConfig(epochs=2, learning_rate=0.1), device="cpu")
        >>> torch.equal(trained.weight, model.weight)
        False
    """
    check_copyable(model)
    config = _checked(config)
    result = train_(
        copy.deepcopy(model),
        data,
        config,
        loss=loss,
        teacher=teacher,
        optimizer=optimizer,
        device=device,
        seed=seed,
        checkpoint=None if checkpoint is None else Path(checkpoint),
        progress=progress,
    )
    return result.model.eval()


def _checked(config: TrainingConfig | None) -> TrainingConfig:
    config = TrainingConfig() if config is None else config
    check_config(config, TrainingConfig)
    if config.epochs < 1:
        raise RecipeError("training.epochs is 0, so that nothing trains; set it to 1 or more")
    return config


def train_into_folder(
    model: nn.Module,
    data: Batches,
    output: str | Path,
    config: TrainingConfig | None = None,
    *,
    loss: Loss | None = None,
    teacher: nn.Module | None = None,
    optimizer: OptimizerFactory | None = None,
    validate: Metric | None = None,
    evaluate: Metric | None = None,
    metric: str = "score",
    details: Mapping[str, Any] | None = None,
    device: str | torch.device = "auto",
    seed: int = 0,
    resume: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a copy of a model; write its weights, a card and the history of the run.

    The folder gets ``model.safetensors``, ``card.json`` and ``history.jsonl``, one line per epoch.
    While the run lasts it also holds ``checkpoint.pt``, the state after each epoch. Of the last
    epoch and the moving average, the one with the better ``validate`` is written, without it the
    average.

    Args:
        model: any module; stays as it is.
        data: as for `train`.
        output: the folder; it is created where necessary.
        config: as for `train`.
        loss: as for `train`.
        teacher: as for `train`.
        optimizer: as for `train`.
        validate: metric of a model in evaluation mode, higher is better, on data that is held out;
            every fifth epoch goes into the history.
        evaluate: metric for the card, which decides nothing.
        metric: name of both metrics in card and history, as in ``test_score``.
        details: further entries of the card: plain values.
        device: as for `train`.
        seed: as for `train`.
        resume: continue from the state in the folder.
        progress: as for `train`.

    Returns:
        The card: settings, seed, epochs, metrics, device and ``commit``, the code of the last
        epoch; ``commits`` has that of all epochs in order.

    Raises:
        CheckpointError: the folder holds a finished run, another run, or any run without
            ``resume``.
        DataError: as for `train`.
        ModelError: as for `train`.
        RecipeError: as for `train`.

    Example:
        >>> import tempfile
        >>> data = [(torch.randn(4, 8), torch.tensor([0, 1, 2, 0])) for _ in range(5)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     card = train_into_folder(nn.Linear(8, 3), data, folder, TrainingConfig(epochs=1))
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['card.json', 'history.jsonl', 'model.safetensors']
    """
    from flyweight.checkpoints import write_state_dict  # imports the coders, which training lacks

    commit = source_commit()  # of the code that runs, whatever is edited meanwhile
    check_copyable(model)
    config = _checked(config)
    output = Path(output)
    checkpoint = check_training_folder(output, resume=resume)
    target = choose_device(device) if isinstance(device, str) else device
    student = copy.deepcopy(model)

    def after_epoch(epoch: int, mean_loss: float) -> None:
        row: dict[str, Any] = {"epoch": epoch + 1, "loss": mean_loss, "commit": commit}
        if validate is not None and (epoch + 1) % _VALIDATE_EVERY == 0:
            with evaluating(student):
                row[f"validation_{metric}"] = validate(student)
        _append_history(output / _HISTORY, row)

    result = train_(
        student,
        data,
        config,
        loss=loss,
        teacher=teacher,
        optimizer=optimizer,
        device=target,
        seed=seed,
        checkpoint=checkpoint,
        after_epoch=after_epoch,
        progress=progress,
    )
    candidates = {"last epoch": student}
    if result.averaged is not None:
        candidates = {"moving average": result.averaged, **candidates}  # which wins a draw
    scores: dict[str, float | None] = dict.fromkeys(candidates)
    if validate is not None:
        for name, candidate in candidates.items():
            with evaluating(candidate):
                scores[name] = validate(candidate)
    chosen = max(candidates, key=lambda name: _rank(scores[name]))
    winner = candidates[chosen].eval()
    main = is_main_process()
    if main:  # the weights first: nothing that comes after can lose them
        write_state_dict(winner.state_dict(), output / _WEIGHTS)
    rows = read_history(output)
    card = {
        **(details or {}),
        "parameters": sum(parameter.numel() for parameter in winner.parameters()),
        "training": dataclasses.asdict(config),
        "seed": seed,
        "epochs": config.epochs,
        "weights": chosen,
        f"validation_{metric}": scores[chosen],
        f"test_{metric}": None if evaluate is None else evaluate(winner),
        "device": describe_device(target),
        "torch": torch.__version__,
        "commit": commit,
        "commits": list(dict.fromkeys([str(row["commit"]) for row in rows if "commit" in row])),
    }
    if main:
        write_atomic(output / _CARD, (json.dumps(card, indent=2) + "\n").encode())
        checkpoint.unlink(missing_ok=True)
    return card


def _rank(score: float | None) -> float:
    """The score, or minus infinity for NaN and for none."""
    return -math.inf if score is None or math.isnan(score) else score


def check_training_folder(output: Path, *, resume: bool) -> Path:
    """Return the path of the state in a folder for a run, which is created.

    Raises:
        CheckpointError: the folder holds a finished run, or one that is to be continued.
    """
    checkpoint = output / _STATE
    if checkpoint.exists() and not resume:
        raise CheckpointError(
            f"{output} holds {_STATE} of a run that was stopped; resume it with resume=True, or "
            "choose another folder"
        )
    if (output / _WEIGHTS).exists() and not checkpoint.exists():
        raise CheckpointError(f"{output} holds {_WEIGHTS} of a finished run; choose another folder")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"the folder {output} cannot be created ({error.strerror}); choose another"
        ) from error
    return checkpoint


def _append_history(path: Path, row: Mapping[str, Any]) -> None:
    """Add a line to the history; one that cannot be written is reported and costs no epoch."""
    try:
        with path.open("a+b") as file:
            if file.tell():
                file.seek(-1, 2)
                if file.read(1) != b"\n":  # a line that a full disk or a power cut left
                    file.write(b"\n")
            file.write(json.dumps(row).encode() + b"\n")
    except (OSError, ValueError, TypeError) as error:
        _log.warning("epoch %s cannot be added to %s (%s)", row.get("epoch"), path, error)


def read_history(folder: str | Path) -> list[dict[str, Any]]:
    """Read the lines of ``history.jsonl`` in a folder; damaged ones are left out.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "history.jsonl").write_text('{"epoch": 1}\\n{"epoch": 2, "lo')
        ...     read_history(folder)
        [{'epoch': 1}]
    """
    try:
        lines = (Path(folder) / _HISTORY).read_bytes().splitlines()
    except OSError:
        return []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows
