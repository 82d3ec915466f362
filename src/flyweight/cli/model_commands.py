"""Commands that compress or evaluate a network by its task."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from flyweight.cli.command import describing_stop, states_in
from flyweight.cli.messages import sentence
from flyweight.cli.networks import load_task, named_network, open_network
from flyweight.cli.options import (
    ArchitectureName,
    AsJson,
    Data,
    Debug,
    Device,
    Force,
    ModelName,
    OutputFile,
    Quiet,
    Seed,
    TargetBytes,
    TaskName,
)
from flyweight.cli.outputs import check_fly_output
from flyweight.cli.progress import display
from flyweight.cli.tables import print_json, print_rows
from flyweight.errors import CheckpointError, DataError

if TYPE_CHECKING:
    from torch import nn

    from flyweight import CompressedModel
    from flyweight.compression import CompressionReport

__all__ = ["compress", "evaluate"]


def _finite(value: float | None) -> float | None:
    """Refuse what every file, or none, would keep to."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no finite number; give one")
    return value


def compress(
    model: ModelName,
    output: OutputFile,
    recipe: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE", help="post-training, quick, full, smallest or a TOML file."
        ),
    ] = "post-training",
    target_bytes: TargetBytes = None,
    min_ratio: Annotated[
        float | None,
        typer.Option(
            min=0, callback=_finite, help="Fail unless the file is so many times smaller."
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(callback=_finite, help="Fail unless the score drops by less than this."),
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option(callback=_finite, help="Fail unless the score is this or higher."),
    ] = None,
    task: TaskName = None,
    architecture: ArchitectureName = None,
    data: Data = None,
    device: Device = "auto",
    seed: Seed = 0,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compress a network and measure the file.

    Without --recipe the network is quantized after training (post-training): no epoch is trained.
    A run that was stopped resumes from the last whole epoch when the same command is repeated.
    With --min-ratio, --max-drop or --min-score the last line says whether the file keeps to them,
    and the exit status is 1 where it does not; the file is written in any case.
    Compress a checkpoint without its network and without data by compress-checkpoint.
    """
    check_fly_output(output, inputs=[model, recipe], force=force)
    import flyweight
    from flyweight.compression import remove_states
    from flyweight.processes import is_main_process, wait_for_all
    from flyweight.training import keep_freed_memory

    keep_freed_memory()
    settings = flyweight.load_recipe(recipe)
    states = output.with_name(f"{output.name}.partial")
    with (
        describing_stop(_stop_of_compress(output, states)),
        display(quiet=quiet) as progress,
    ):
        network = open_network(model, architecture)
        arguments = load_task(
            task,
            network,
            model,
            data=data,
            device=device,
            seed=seed,
            progress=progress,
        )
        scored = max_drop is not None or min_score is not None
        if scored and arguments.get("evaluate") is None:
            raise DataError(
                f"--max-drop and --min-score need a metric, and --task {task} returns no "
                '"evaluate"; return one under that key'
            )
        if "data" not in arguments:
            raise DataError(f'--task {task} returns no "data"; return batches under that key')
        compressed = flyweight.compress(
            network,
            settings,
            **arguments,
            target_bytes=target_bytes,
            device=device,
            seed=seed,
            resume=states,
            progress=progress,
        )
        if is_main_process():
            _save(compressed, output, states, force=force)
            remove_states(states, compressed.report.run)
        wait_for_all()
    report = compressed.report
    _warn_if_larger(report)
    found = report.requirements(min_ratio=min_ratio, max_drop=max_drop, min_score=min_score)
    kept = all(met for met, _ in found)
    if as_json:
        print_json(report.to_dict() | ({"requirements_met": kept} if found else {}))
    else:
        verdict = ("met: " if kept else "NOT MET: ") + ", ".join(text for _, text in found)
        print_rows({"file": output, **report.rows()} | ({"required": verdict} if found else {}))
    if not kept:
        raise typer.Exit(1)


def _warn_if_larger(report: CompressionReport) -> None:
    if report.file_bytes > report.dense_bytes:
        warnings.warn(
            f"the file is larger than the dense network, {report.file_bytes:,} against "
            f"{report.dense_bytes:,} bytes; raise loss_per_bit in a recipe, or train with --recipe "
            "quick or full",
            stacklevel=2,
        )


def _save(compressed: CompressedModel, output: Path, states: Path, *, force: bool) -> None:
    """Write the file; where that fails, say that no training is lost."""
    import flyweight

    try:
        flyweight.save(compressed, output, force=force)
    except (CheckpointError, OSError) as error:
        if not states_in(states / compressed.report.run):
            raise
        problem = sentence(error).partition(";")[0]
        again = " with --force" if output.is_file() and not force else ""
        raise CheckpointError(
            f"{problem}; repeat the command{again}: it resumes from the states in {states}"
        ) from error


def _stop_of_compress(output: Path, states: Path) -> Callable[[], str]:
    """Describe, when the run is stopped, whether it can be resumed."""
    before = states_in(states)

    def describe() -> str:
        found = states_in(states)
        if found != before:
            return (
                f"stopped; {states} has the state after the last whole epoch, and the same "
                "command resumes from it"
            )
        unchanged = f", and the states in {states} are unchanged" if before else ""
        return f"stopped; {output} was not written{unchanged}"

    return describe


def evaluate(
    model: ModelName,
    task: TaskName = None,
    architecture: ArchitectureName = None,
    data: Data = None,
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure the score of a file or network."""
    import flyweight
    from flyweight.training import choose_device

    with describing_stop(lambda: "stopped"), display(quiet=quiet) as progress:

        def metric(network: nn.Module) -> float:
            found = load_task(task, network, model, data=data, device=device, progress=progress)
            if found.get("evaluate") is None:
                raise DataError(
                    f'--task {task} returns no "evaluate"; return a metric under that key'
                )
            return cast(float, found["evaluate"](network))

        source = named_network(model, architecture)
        if not isinstance(source, Path):
            source = source.to(choose_device(device))
        result = flyweight.evaluate(
            source, evaluate=metric, architecture=architecture, device=device
        )
    if as_json:
        print_json(result.to_dict())
        return
    rows = {"model": model, "score": f"{result.score:.4f}"}
    if result.file_bytes is not None:
        rows["file bytes"] = f"{result.file_bytes:,}"
    print_rows(rows | {"device": result.device})
