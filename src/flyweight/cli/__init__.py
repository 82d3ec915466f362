"""The command line: arguments in, one public function called, a table or JSON out."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from flyweight.errors import FlyweightError, RecipeError
from flyweight.training.processes import is_main_process

app = typer.Typer(
    name="flyweight",
    help="Make the smallest file that still does a neural network's job.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Data = Annotated[
    Path | None, typer.Option(help="Folder holding cifar-10-batches-py, instead of a download.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Seed = Annotated[
    int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything drawn at random.")
]


def _from_here(architecture: str | None) -> str | None:
    """Let package.module:factory stand in the current folder."""
    if architecture and ":" in architecture and "" not in sys.path:
        sys.path.insert(0, "")
    return architecture


ArchitectureName = Annotated[
    str | None,
    typer.Option("--architecture", help="Name, or package.module:factory.", callback=_from_here),
]


@app.command()
def train(
    architecture: Annotated[str, typer.Argument(help="Network by name, such as resnet20.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder to fill.")] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 100,
    progressive: Annotated[
        bool, typer.Option("--progressive", help="Grow the training images from 16 to 32 pixels.")
    ] = False,
    alternating: Annotated[
        bool,
        typer.Option(
            "--alternating",
            help="Crops of 24, 28 and 32 pixels, alternating flips, peak rate 0.1.",
        ),
    ] = False,
    compile_: Annotated[
        bool, typer.Option("--compile", help="Fuse operations (needs a C++ compiler); faster.")
    ] = False,
    all_images: Annotated[
        bool, typer.Option("--all-images", help="Train on all 50,000, holding none out.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last epoch.")] = False,
    data: Data = None,
    device: Device = "auto",
    seed: Seed = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a network known by name on CIFAR-10; writes weights and a card into a folder."""
    from flyweight.cli.console import print_rows, progress_bar
    from flyweight.training import PROGRESSIVE_SIZES, TrainingConfig, keep_freed_memory
    from flyweight.cifar import train as run

    keep_freed_memory()
    sizes = PROGRESSIVE_SIZES if progressive else ((32, 1.0),)
    config = TrainingConfig(epochs=epochs, image_sizes=sizes, compile=compile_)
    if alternating:
        config = TrainingConfig(
            epochs=epochs,
            learning_rate=0.1,
            warmup=0.05,
            image_sizes=((24, 0.3), (28, 0.2), (32, 0.5)),
            augmentation="alternating",
            compile=compile_,
        )
    folder = output or Path("runs") / f"{architecture}-seed{seed}"
    with progress_bar(quiet=quiet) as progress:
        card = run(
            architecture,
            folder,
            config=config,
            split="train50k" if all_images else "train45k",
            data=data,
            device=device,
            seed=seed,
            resume=resume,
            progress=progress,
        )
    if as_json:
        print(json.dumps(card))
        return
    validation = card["validation_accuracy"]
    print_rows(
        {
            "weights": f"{folder / 'model.safetensors'} ({card['weights']})",
            "validation accuracy": "none held out" if validation is None else f"{validation:.2%}",
            "test accuracy": f"{card['test_accuracy']:.2%}",
        }
    )


@app.command()
def compress(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Pretrained network by name, or a checkpoint file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .fly file to write.")],
    recipe: Annotated[
        str | None, typer.Option(help="quick (if nothing is said), full, or a TOML file.")
    ] = None,
    bits: Annotated[
        int | None,
        typer.Option(help="Shrink any .safetensors: 2^bits values a tensor, no data needed."),
    ] = None,
    lossless: Annotated[
        bool, typer.Option("--lossless", help="Pack any .safetensors without losing a bit.")
    ] = False,
    grid: Annotated[
        str, typer.Option(help="With --bits: kmeans, or uniform (multiples of a step).")
    ] = "kmeans",
    effort: Annotated[
        str, typer.Option(help="With --bits or --lossless: fast, balanced or smallest.")
    ] = "balanced",
    architecture: ArchitectureName = None,
    data: Data = None,
    device: Device = "auto",
    seed: Seed = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make the smallest file of a network, and prove what it does.

    With --bits or --lossless: of any .safetensors file, its index or its folder, without training
    and without data.
    """
    from flyweight.cli.console import print_rows, progress_bar
    from flyweight.proof_old import compress_to_file
    from flyweight.training import keep_freed_memory

    if bits is not None or lossless:
        idle = ["recipe", "architecture", "data", "device", "seed", *(["bits", "grid"] * lossless)]
        _refuse(context, idle, "--lossless" if lossless else "--bits")
        _shrink(model, output, bits, grid, effort, as_json=as_json, quiet=quiet)
        return
    _refuse(context, ["grid", "effort"], "a recipe")
    keep_freed_memory()
    with progress_bar(quiet=quiet) as progress:
        report = compress_to_file(
            model,
            output,
            recipe or "quick",
            architecture=architecture,
            data=data,
            device=device,
            seed=seed,
            progress=progress,
        )
    if as_json:
        print(json.dumps(report.to_dict()))
        return
    drop = 100 * (report.accuracy_before - report.accuracy_after)
    same = "identical" if report.reload_identical else "DIFFERENT"
    print_rows(
        {
            "file": output,
            "dense bytes": f"{report.dense_bytes:,}",
            "file bytes": f"{report.file_bytes:,}",
            "compression ratio": f"{report.compression_ratio:.2f}x (whole file on disk)",
            "course ratio": f"{report.course_ratio:.2f}x (without positions, codebooks, tables, "
            "batch norm, biases and header: no file is that small)",
            "sparsity": f"{report.sparsity:.2%} of the coded weights are zero",
            "accuracy before": f"{report.accuracy_before:.2%} of 10,000 test images",
            "accuracy after": f"{report.accuracy_after:.2%}, a drop of {drop:.2f} points",
            "reloaded": f"logits {same} after reload",
            "run": f"recipe {report.recipe}, {report.epochs} epochs, seed {report.seed}, "
            f"{report.device}",
        }
    )


def _refuse(context: typer.Context, names: list[str], way: str) -> None:
    """Options that were given and would do nothing."""
    sources = {name: context.get_parameter_source(name) for name in names}
    given = [name for name, source in sources.items() if source and source.name == "COMMANDLINE"]
    if given:
        options = ", ".join(f"--{name}" for name in given)
        raise RecipeError(f"beside {way}, there is nothing for {options} to do; leave that out")


def _shrink(
    model: str,
    output: Path,
    bits: int | None,
    grid: str,
    effort: str,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    from flyweight.cli.console import print_rows, progress_bar
    from flyweight.checkpoints import compress_checkpoint
    from flyweight.training import keep_freed_memory

    keep_freed_memory()
    with progress_bar(quiet=quiet) as progress:
        report = compress_checkpoint(model, output, bits=bits, grid=grid, effort=effort, progress=progress)
    if as_json:
        print(json.dumps(report.to_dict()))
        return
    rate = report.tensor_bytes / 1e6 / report.seconds
    print_rows(
        {
            "file": output,
            "tensor bytes": f"{report.tensor_bytes:,}",
            "file bytes": f"{report.file_bytes:,}",
            "ratio": f"{report.ratio:.2f}x (tensors of the checkpoint over the whole file)",
            "tensors": f"{report.tensors}, {report.quantized} of them of few values, "
            "the others bit for bit",
            "run": f"{report.seconds:.1f} s, {rate:.0f} MB/s",
        }
    )


@app.command()
def decompress(
    file: Annotated[Path, typer.Argument(help="A .fly file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .safetensors to write.")],
    architecture: ArchitectureName = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Turn a .fly file into a .safetensors file of ordinary weights."""
    from flyweight.cli.console import progress_bar
    from flyweight.proof_old import decompress_to_file

    with progress_bar(quiet=quiet) as progress:
        result = decompress_to_file(file, output, architecture=architecture, progress=progress)
    if as_json:
        print(json.dumps(result))
    elif not quiet:
        print(f"{output}: {result['tensors']} tensors, {result['bytes']:,} bytes")


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="A .fly file.")],
    architecture: ArchitectureName = None,
    peers: Annotated[
        bool, typer.Option("--peers", help="Beside it, the same tensors as fp32, fp16, zstd, xz.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Show where every byte of a .fly file went; entropy bounds stand in brackets."""
    from flyweight.cli.console import ledger_table, print_table
    from flyweight.proof_old import inspect

    account = inspect(file, architecture=architecture, peers=peers)
    if as_json:
        print(json.dumps(account.to_dict()))
        return
    columns, rows = ledger_table(account)
    print_table(columns, rows[-1:] if quiet else rows)
    print(f"{file}: {account.total_bytes:,} bytes on disk")


@app.command()
def evaluate(
    file: Annotated[str, typer.Argument(help="A .fly file, a checkpoint, or a network by name.")],
    architecture: ArchitectureName = None,
    data: Data = None,
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure the accuracy on the 10,000 test images of what a file holds."""
    from flyweight.cli.console import print_rows, progress_bar
    from flyweight.proof_old import evaluate as run

    with progress_bar(quiet=quiet) as progress:
        result = run(file, architecture=architecture, data=data, device=device, progress=progress)
    if as_json:
        print(json.dumps(result))
        return
    shown: dict[str, Any] = {"accuracy": f"{result['accuracy']:.2%} of 10,000 test images"}
    if result["file_bytes"] is not None:
        shown["file bytes"] = f"{result['file_bytes']:,}"
    print_rows(shown)


def main() -> None:
    """Run the command line; a problem is one sentence on stderr and exit code 2.

    Of several processes that train together the first one speaks; each tells why it ends.
    """
    if not is_main_process():
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - until the process ends
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            app()
    except (FlyweightError, OSError, MemoryError) as error:
        print(f"flyweight: {_sentence(error)}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit) and stop.code != 130:  # typer's word for Ctrl-C
            raise
        print(
            "flyweight: stopped; the state of the last whole epoch is kept, "
            "and the same command goes on from it (train: with --resume)",
            file=sys.stderr,
        )
        sys.exit(130)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    if is_main_process():
        print(f"flyweight: {message}", file=sys.stderr)


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}; nothing was written"
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    main()
