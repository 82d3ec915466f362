"""The command that trains a network from scratch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flyweight.cli.command import describing_stop, states_in
from flyweight.cli.networks import load_task
from flyweight.cli.options import (
    AsJson,
    Data,
    Debug,
    Device,
    Quiet,
    Seed,
    TaskName,
    from_current_folder,
)
from flyweight.cli.progress import Progress, display
from flyweight.cli.tables import print_json, print_rows
from flyweight.errors import CheckpointError, DataError, RecipeError

if TYPE_CHECKING:
    from flyweight import TrainingConfig

__all__ = ["train"]


def train(
    architecture: Annotated[
        str,
        typer.Argument(
            metavar="ARCHITECTURE",
            help="Network by name, such as resnet20, or package.module:factory.",
            callback=from_current_folder,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the results.")
    ],
    task: TaskName = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data.")] = 100,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak learning rate. Default: 0.2.")
    ] = None,
    progressive: Annotated[
        bool, typer.Option("--progressive", help="CIFAR-10: grow the images from 16 to 32 pixels.")
    ] = False,
    alternating: Annotated[
        bool,
        typer.Option(
            "--alternating",
            help="CIFAR-10: crops of 24, 28 and 32 pixels, alternating flips, peak rate 0.1.",
        ),
    ] = False,
    all_images: Annotated[
        bool, typer.Option("--all-images", help="CIFAR-10: train on all 50,000 images.")
    ] = False,
    compile_: Annotated[
        bool, typer.Option("--compile", help="Fuse operations (needs a C++ compiler).")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume from the last whole epoch in DIR.")
    ] = False,
    data: Data = None,
    device: Device = "auto",
    seed: Seed = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a network from scratch.

    Writes model.safetensors and card.json into a folder.
    """
    images = {
        "--progressive": progressive,
        "--alternating": alternating,
        "--all-images": all_images,
    }
    _check_options(images, task)
    import flyweight
    from flyweight.training import keep_freed_memory

    keep_freed_memory()
    config = flyweight.TrainingConfig(
        epochs=epochs,
        learning_rate=learning_rate or (0.1 if alternating else 0.2),
        warmup=0.05 if alternating else 0.1,
        ema_decay=0.999,
        compile=compile_,
    )
    with describing_stop(_describe_stop(output)), display(quiet=quiet) as progress:
        if task is None:
            settings = _cifar_settings(progressive, alternating, all_images)
            settings |= {"data": data, "device": device, "seed": seed, "resume": resume}
            card = _train_on_cifar(architecture, output, config, settings, progress)
        else:
            run = {"data": data, "device": device, "seed": seed}
            card = _train_on_task(architecture, task, output, config, run, progress, resume=resume)
    if as_json:
        print_json(card)
        return
    print_rows({"weights": output / "model.safetensors", **_scores(card)})


def _check_options(images: Mapping[str, bool], task: str | None) -> None:
    given = [option for option, value in images.items() if value]
    if "--progressive" in given and "--alternating" in given:
        raise RecipeError("--progressive and --alternating exclude each other; leave one out")
    if task is not None and given:
        raise RecipeError(f"{given[0]} has no effect with --task; leave it out")


def _describe_stop(folder: Path) -> Callable[[], str]:
    before = states_in(folder)

    def describe() -> str:
        if states_in(folder) != before or before:
            return f"stopped; {folder} has the last whole epoch, resume from it with --resume"
        return "stopped before the end of the first epoch; no weights were written"

    return describe


def _cifar_settings(progressive: bool, alternating: bool, all_images: bool) -> dict[str, Any]:
    from flyweight.cifar import ALTERNATING_SIZES, PROGRESSIVE_SIZES

    settings: dict[str, Any] = {"split": "train50k" if all_images else "train45k"}
    if progressive:
        settings["image_sizes"] = PROGRESSIVE_SIZES
    if alternating:
        settings |= {"image_sizes": ALTERNATING_SIZES, "augmentation": "alternating"}
    return settings


def _train_on_cifar(
    architecture: str,
    output: Path,
    config: TrainingConfig,
    settings: Mapping[str, Any],
    progress: Progress | None,
) -> dict[str, Any]:
    from flyweight.cifar import architectures, train_resnet

    if architecture not in architectures():
        raise DataError(
            f"there is no task for {architecture!r}; give --task package.module:function, or train "
            "a network that comes with flyweight, such as resnet20"
        )
    return train_resnet(architecture, output, config=config, progress=progress, **settings)


def _train_on_task(
    architecture: str,
    task: str,
    output: Path,
    config: TrainingConfig,
    run: Mapping[str, Any],
    progress: Progress | None,
    *,
    resume: bool,
) -> dict[str, Any]:
    """Train on the data of a user's task, as `flyweight.cifar.train_resnet` does on CIFAR-10."""
    from flyweight._files import write_atomic
    from flyweight.checkpoints import write_state_dict
    from flyweight.modules import build
    from flyweight.processes import is_main_process
    from flyweight.training import choose_device, describe_device, train_

    checkpoint = output / "checkpoint.pt"
    _check_folder(output, checkpoint, resume=resume)
    network = build(architecture)
    arguments = load_task(task, network, architecture, **run)
    if arguments.get("data") is None:
        raise DataError(f'--task {task} returns no "data"; return batches under that key')
    evaluate = arguments.pop("evaluate", None)
    target = choose_device(run["device"])
    output.mkdir(parents=True, exist_ok=True)
    result = train_(
        network,
        arguments.pop("data"),
        config,
        **arguments,
        device=target,
        seed=run["seed"],
        checkpoint=checkpoint,
        progress=progress,
    )
    trained = (result.averaged or result.model).eval()
    card = {
        "architecture": architecture,
        "task": task,
        "parameters": sum(parameter.numel() for parameter in trained.parameters()),
        "epochs": config.epochs,
        "seed": run["seed"],
        "loss": result.losses[-1],
        "score": None if evaluate is None else float(evaluate(trained)),
        "device": describe_device(target),
    }
    if is_main_process():
        write_state_dict(trained.state_dict(), output / "model.safetensors")
        write_atomic(output / "card.json", json.dumps(card, indent=2).encode() + b"\n")
        checkpoint.unlink(missing_ok=True)
    return card


def _check_folder(folder: Path, checkpoint: Path, *, resume: bool) -> None:
    if checkpoint.exists() and not resume:
        raise CheckpointError(
            f"{folder} has the state of a run; resume it with --resume, or name another folder "
            "with --output"
        )
    if not checkpoint.exists() and (folder / "model.safetensors").exists():
        raise CheckpointError(
            f"{folder} has model.safetensors of a finished run; name another folder with --output"
        )


def _scores(card: Mapping[str, Any]) -> dict[str, str]:
    names = {
        "weights": "chosen weights",
        "loss": "training loss",
        "score": "score",
        "validation_accuracy": "validation accuracy",
        "test_accuracy": "test accuracy",
        "device": "device",
    }
    found = {text: card[key] for key, text in names.items() if card.get(key) is not None}
    return {k: f"{v:.4f}" if isinstance(v, float) else str(v) for k, v in found.items()}
