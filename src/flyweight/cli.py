"""The command line: arguments in, one public function called, a table or JSON out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from flyweight.errors import FlyweightError

app = typer.Typer(
    name="flyweight",
    help="Make the smallest file that still does a neural network's job.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Data = Annotated[
    Path | None, typer.Option(help="Folder holding cifar-10-batches-py, instead of a download.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Seed = Annotated[int, typer.Option(help="Seed of everything drawn at random.")]


@app.callback()
def _main() -> None:
    pass


@app.command()
def train(
    architecture: Annotated[str, typer.Argument(help="Network by name, such as resnet20.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder to fill.")] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 100,
    progressive: Annotated[
        bool, typer.Option(help="Grow the training images from 16 to 32 pixels.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last epoch.")] = False,
    data: Data = None,
    device: Device = "auto",
    seed: Seed = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a network known by name on CIFAR-10."""
    from flyweight.training import PROGRESSIVE_SIZES, TrainingConfig
    from flyweight.training import train as run

    config = TrainingConfig(epochs=epochs)
    if progressive:
        config = TrainingConfig(epochs=epochs, image_sizes=PROGRESSIVE_SIZES)
    folder = output or Path("runs") / f"{architecture}-seed{seed}"
    card = run(
        architecture, folder, config=config, data=data, device=device, seed=seed, resume=resume
    )
    print(json.dumps(card, indent=None if as_json else 2))


def main() -> None:
    """Run the command line; a problem is one sentence on stderr and exit code 2."""
    try:
        app()
    except FlyweightError as error:
        print(f"flyweight: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
