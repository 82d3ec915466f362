"""The command that trains a network from scratch."""

from __future__ import annotations

import dataclasses
import warnings
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
from flyweight.cli.progress import display
from flyweight.cli.tables import print_json, print_rows
from flyweight.errors import DataError, RecipeError

if TYPE_CHECKING:
    from flyweight import TrainingConfig

__all__ = ["train"]

_WEIGHTS = "model.safetensors"  # of a finished run


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
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the data. Default: 100, or 150.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak learning rate. Default: 0.2, or 0.1.")
    ] = None,
    progressive: Annotated[
        bool, typer.Option("--progressive", help="CIFAR-10: grow the images from 16 to 32 pixels.")
    ] = False,
    alternating: Annotated[
        bool,
        typer.Option(
            "--alternating",
            help="CIFAR-10: crops of 24, 28 and 32 pixels and alternating flips, for 150 epochs.",
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
    from flyweight.training import keep_freed_memory

    keep_freed_memory()
    changes = {"epochs": epochs, "learning_rate": learning_rate, "compile": compile_}
    run = {"device": device, "seed": seed, "resume": resume}
    with describing_stop(_describe_stop(output)), display(quiet=quiet) as progress:
        if task is None:
            card = _train_on_cifar(
                architecture, output, changes, images, data=data, progress=progress, **run
            )
        else:
            card = _train_on_task(
                architecture, task, output, changes, data=data, progress=progress, **run
            )
    if as_json:
        print_json(card)
        return
    print_rows({"file": output / _WEIGHTS, **_scores(card)})


def _check_options(images: Mapping[str, bool], task: str | None) -> None:
    given = [option for option, value in images.items() if value]
    if "--progressive" in given and "--alternating" in given:
        raise RecipeError("--progressive and --alternating exclude each other; leave one out")
    if task is not None and given:
        raise RecipeError(f"{given[0]} has no effect with --task; leave it out")


def _describe_stop(folder: Path) -> Callable[[], str]:
    def describe() -> str:
        if states_in(folder):
            return (
                f"stopped; {folder} has the state after the last whole epoch, and the same command "
                "with --resume continues from it"
            )
        return "stopped before the end of the first epoch; no weights were written"

    return describe


def _warn_without_state(folder: Path, *, resume: bool) -> None:
    if resume and not any((folder / name).exists() for name in ("checkpoint.pt", _WEIGHTS)):
        warnings.warn(
            f"{folder} has no state to resume; the run starts from the beginning", stacklevel=2
        )


def _changed(config: TrainingConfig, changes: Mapping[str, Any]) -> TrainingConfig:
    return dataclasses.replace(config, **{k: v for k, v in changes.items() if v is not None})


def _train_on_cifar(
    architecture: str,
    output: Path,
    changes: Mapping[str, Any],
    images: Mapping[str, bool],
    **run: Any,
) -> dict[str, Any]:
    from flyweight import cifar

    if architecture not in cifar.architectures():
        raise DataError(
            f"there is no task for {architecture!r}; give --task package.module:function, or train "
            "a network that comes with flyweight, such as resnet20"
        )
    _warn_without_state(output, resume=run["resume"])
    alternating = images["--alternating"]
    return cifar.train_resnet(
        architecture,
        output,
        config=_changed(cifar.ALTERNATING if alternating else cifar.STANDARD, changes),
        augmentation="alternating" if alternating else "standard",
        image_sizes=cifar.PROGRESSIVE_SIZES if images["--progressive"] else None,
        split="train50k" if images["--all-images"] else "train45k",
        **run,
    )


def _train_on_task(
    architecture: str,
    task: str,
    output: Path,
    changes: Mapping[str, Any],
    *,
    data: Path | None,
    **run: Any,
) -> dict[str, Any]:
    from flyweight import TrainingConfig
    from flyweight.modules import build
    from flyweight.training import check_training_folder, train_into_folder

    network = build(architecture)
    check_training_folder(output, resume=run["resume"])  # before a download
    _warn_without_state(output, resume=run["resume"])
    found = load_task(
        task, network, architecture, data=data, device=run["device"], seed=run["seed"]
    )
    if found.get("data") is None:
        raise DataError(f'--task {task} returns no "data"; return batches under that key')
    return train_into_folder(
        network,
        found.pop("data"),
        output,
        _changed(TrainingConfig(ema_decay=0.999), changes),
        details={"architecture": architecture, "task": task},
        **found,
        **run,
    )


def _scores(card: Mapping[str, Any]) -> dict[str, str]:
    """Return the entries of a card that a reader wants first, as text."""
    metrics = [key for key in card if key.startswith(("validation_", "test_"))]
    found = {"weights": str(card["weights"]), "device": str(card["device"])}
    for key in metrics:
        if card[key] is not None:
            found[key.replace("_", " ")] = f"{card[key]:.4f}"
    return found
