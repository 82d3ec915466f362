"""Train a network known by name from scratch, on disk from start to finish."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

import torch

from flyweight.cifar.dataset import load_cifar10
from flyweight.errors import CheckpointError
from flyweight.cifar.architectures import create_model
from flyweight._provenance import source_commit
from flyweight.training.config import TrainingConfig
from flyweight.cifar.evaluation import accuracy
from flyweight.training.loop import Progress, train_
from flyweight.training.precision import choose_device, describe_device
from flyweight.processes import is_main_process

__all__ = ["train_resnet"]


def train_resnet(
    architecture: str,
    output: str | Path,
    *,
    config: TrainingConfig | None = None,
    split: Literal["train45k", "train50k"] = "train45k",
    data: str | Path | None = None,
    device: str = "auto",
    seed: int = 0,
    resume: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train on CIFAR-10; write ``model.safetensors``, ``card.json`` and ``history.jsonl``.

    ``output`` is a folder. While the run lasts it also holds ``checkpoint.pt``, written after each
    epoch, from which ``resume=True`` goes on. Of the last epoch and the moving average, the one
    better on the 5,000 validation images is kept (the average where all 50,000 images are trained
    on). Returns the card; accuracies are fractions, ``commits`` is the code of all epochs, in
    order, and ``commit`` that of the last. The test images decide nothing.

    Raises CheckpointError if ``output`` holds a finished run, another run, or any run where
    ``resume`` is False.

    Example:
        >>> card = train_resnet("resnet20", "runs/resnet20")  # doctest: +SKIP
    """
    commit = source_commit()  # of the code that runs, whatever is edited meanwhile
    config = config or TrainingConfig()
    output = Path(output)
    checkpoint = output / "checkpoint.pt"
    if checkpoint.exists() and not resume:
        raise CheckpointError(
            f"{output} already holds {checkpoint.name}; go on from it with --resume, "
            "or choose another folder with --output"
        )
    if (output / "model.safetensors").exists() and not checkpoint.exists():
        raise CheckpointError(
            f"{output} already holds model.safetensors of a finished run; "
            "choose another folder with --output"
        )
    target = choose_device(device)
    model = create_model(architecture, seed=seed)
    dataset = load_cifar10(data, progress=progress)
    validation = dataset.split("validation").to(target)
    output.mkdir(parents=True, exist_ok=True)

    def after_epoch(epoch: int, loss: float) -> None:
        row: dict[str, float | str] = {"epoch": epoch + 1, "loss": loss, "commit": commit}
        if (epoch + 1) % 5 == 0 and split == "train45k":
            row["validation_accuracy"] = accuracy(model, validation)
        with (output / "history.jsonl").open("a") as history:
            history.write(json.dumps(row) + "\n")

    result = train_(
        model,
        dataset.split(split).to(target),
        config,
        seed=seed,
        after_epoch=after_epoch,
        checkpoint=checkpoint,
        progress=progress,
    )
    candidates = {"last epoch": model}
    if result.averaged is not None:
        candidates["moving average"] = result.averaged
    scores: dict[str, float | None] = dict.fromkeys(candidates)
    if split == "train45k":
        scores = {name: accuracy(m, validation) for name, m in candidates.items()}
    # On a draw, and where nothing was held out, the moving average.
    chosen = max(reversed(list(candidates)), key=lambda name: scores[name] or 0.0)
    winner = candidates[chosen].eval()
    card = {
        "architecture": architecture,
        "parameters": sum(p.numel() for p in winner.parameters()),
        "recipe": dataclasses.asdict(config),
        "split": split,
        "seed": seed,
        "epochs": config.epochs,
        "weights": chosen,
        "validation_accuracy": scores[chosen],
        "test_accuracy": accuracy(winner, dataset.split("test").to(target)),
        "device": describe_device(target),
        "torch": torch.__version__,
        "commit": commit,
        "commits": _commits(output / "history.jsonl"),
    }
    if is_main_process():
        from flyweight.checkpoints import write_state_dict

        write_state_dict(winner.state_dict(), output / "model.safetensors")
        (output / "card.json").write_text(json.dumps(card, indent=2) + "\n")
        checkpoint.unlink(missing_ok=True)
    return card


def _commits(history: Path) -> list[str]:
    rows = (
        [json.loads(line) for line in history.read_text().splitlines()] if history.exists() else []
    )
    return list(dict.fromkeys(row["commit"] for row in rows if "commit" in row))
