"""What each part of training towards a size gives: one change at a time, on ResNet-20.

    python -m labs.ablations [ROW ...] [--kilobytes 42.9] [--epochs N] [--seed 0]

The recipe ``quick``, and the same with one thing changed, train the shipped network towards one
size on the 45,000 training images. A row has the accuracy on the 5,000 validation images and, with
less noise, the divergence from the dense network there: the mean of KL(dense ‖ compressed) in
nats. Test images decide nothing and are not touched. A run that was stopped goes on from its last
epoch; a row that is there is not made again. Writes ``labs/results/ablations.csv`` and the table in
``docs/frontier.md``.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.report import Row, markdown, put_table, read_rows, write_rows
from flyweight import compress, load_recipe
from flyweight.cifar import AugmentedImages, accuracy, load_cifar10, load_pretrained, predict
from flyweight.cli.progress import display
from flyweight.compression import remove_states
from flyweight.recipes import Recipe
from flyweight.training import choose_device
from labs.options import lab_parser, read_options
from labs.rows import RESULTS, STATES, origin

DOCUMENT = Path(__file__).parents[1] / "docs" / "frontier.md"
BATCH_SIZE = 128


def changed(
    quantization: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    **whole: Any,
) -> Callable[[Recipe], Recipe]:
    """A change of keys of a recipe, by section."""

    def change(recipe: Recipe) -> Recipe:
        assert recipe.quantization is not None
        return dataclasses.replace(
            recipe,
            quantization=dataclasses.replace(recipe.quantization, **(quantization or {})),
            fine_tuning=dataclasses.replace(recipe.fine_tuning, **(training or {})),
            **whole,
        )

    return change


ROWS: dict[str, Callable[[Recipe], Recipe]] = {
    "quick": changed(),
    "from the dense network, .025": changed(
        {"target_ramp": 0.7}, {"learning_rate": 0.025}, post_training=None
    ),
    "learning rate .02": changed(training={"learning_rate": 0.02}),
    "learning rate .005": changed(training={"learning_rate": 0.005}),
    "start at 1.05 times, ramp .1": changed({"start_ratio": 1.05, "target_ramp": 0.1}),
    "codes kept at .8": changed({"freeze_at": 0.8}),
    "no dead zone": changed({"dead_zone": 0.0}),
    "no weight decay": changed(training={"weight_decay": 0.0}),
    "temperature 1": changed(training={"temperature": 1.0}),
    "temperature 4": changed(training={"temperature": 4.0}),
    "no distillation": changed(training={"distillation": 0.0}),
    "3 bits of mantissa": changed(float_mantissa_bits=3),
    "half the batch": changed(),
    "in fp32": changed(training={"precision": "fp32"}),
}


def make(name: str, recipe: Recipe, options: argparse.Namespace) -> Row:
    """Train one row."""
    begin = time.perf_counter()
    data, target = load_cifar10(options.data), choose_device(options.device)
    held_out = data.split("validation").to(target)
    dense = load_pretrained("resnet20").to(target)
    expected = F.log_softmax(predict(dense, held_out.images), 1)
    divergences: list[Tensor] = []

    def evaluate(model: nn.Module) -> float:
        found = F.log_softmax(predict(model, held_out.images), 1)
        divergences.append((expected.exp() * (expected - found)).sum(1).mean())
        return accuracy(model, held_out)

    batch_size = BATCH_SIZE // 2 if name == "half the batch" else BATCH_SIZE
    states = STATES / "ablations" / name.replace(" ", "-")
    begun = any(states.rglob("*.pt"))
    with display(quiet=False) as progress:
        compressed = compress(
            load_pretrained("resnet20"),
            recipe,
            data=AugmentedImages(
                data.split("train45k").to(target), batch_size=batch_size, seed=options.seed
            ),
            evaluate=evaluate,
            device=options.device,
            seed=options.seed,
            resume=states,
            progress=progress,
        )
    remove_states(states, compressed.report.run)
    report = compressed.report
    row = {
        "row": name,
        "asked_bytes": round(1000 * options.kilobytes),
        "epochs": recipe.epochs,
        "file_bytes": report.file_bytes,
        "zeros": f"{report.sparsity:.4f}",
        "divergence": f"{float(divergences[-1]):.4f}",
        "validation_accuracy": f"{report.score_after:.4f}",
    }
    return row | origin(options.seed, target, begin, whole=not begun)


def table(rows: Sequence[Row]) -> str:
    """Markdown of the rows, by size asked for, epochs and divergence."""
    columns = [":change", "asked, bytes", "file, bytes", "zeros, %", "divergence, nats"]
    columns += ["validation, %", "epochs", "seed", ":device", ":commit"]
    cells = [
        (
            row["row"],
            f"{int(row['asked_bytes']):,}",
            f"{int(row['file_bytes']):,}",
            f"{100 * float(row['zeros']):.1f}",
            row["divergence"],
            f"{100 * float(row['validation_accuracy']):.2f}",
            row["epochs"],
            row["seed"],
            row["device"],
            row["commit"],
        )
        for row in sorted(
            rows,
            key=lambda r: (-int(r["asked_bytes"]), int(r["epochs"]), float(r["divergence"])),
        )
    ]
    return markdown(columns, cells)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the rows that are named, and rewrite the table after each."""
    parser = lab_parser("One change of the recipe quick at a time.", rows=True)
    parser.add_argument("--kilobytes", type=float, default=42.9, help="to end with")
    parser.add_argument("--epochs", type=int, help="default: those of the recipe")
    options = read_options(parser, arguments)
    if unknown := [name for name in options.rows if name not in ROWS]:
        raise SystemExit(f"{', '.join(unknown)} is no row; known are {', '.join(ROWS)}")
    torch.manual_seed(options.seed)
    for name in options.rows or ROWS:
        recipe = ROWS[name](load_recipe("quick").with_target(round(1000 * options.kilobytes)))
        if options.epochs is not None:
            recipe = changed(training={"epochs": options.epochs})(recipe)
        keys = ("row", "asked_bytes", "epochs", "seed")
        asked = str(round(1000 * options.kilobytes))
        wanted = (name, asked, str(recipe.epochs), str(options.seed))
        if any(
            tuple(row[key] for key in keys) == wanted for row in read_rows("ablations", RESULTS)
        ):
            continue
        row = make(name, recipe, options)
        print(row, flush=True)
        rows = [*read_rows("ablations", RESULTS), row]
        write_rows("ablations", rows, RESULTS)
        put_table("labs.ablations", table(rows), DOCUMENT)


if __name__ == "__main__":
    main()
