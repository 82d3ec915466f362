"""The frontier: the smallest files of ResNet-20 on CIFAR-10, by training towards their bytes.

    python -m labs.frontier [ROW ...] [--epochs N] [--recipe NAME|FILE] [--trunk] [--all-images]
                            [--views N] [--seed 0]

A row is a size, such as 25kB. The shipped network is trained towards it by the recipe ``smallest``,
with itself as the teacher, on the 45,000 training images or with ``--all-images`` on all 50,000.
With ``--trunk`` the run starts from the network of `labs.trunk`, and its epochs count as well.
With ``--views`` each image has so many crops, and what the teacher says of them is kept for all
runs of that seed, which then take three quarters of the time.
The file is written, read back, and tested on the 10,000 test images. Of several files of one size
the best by the 5,000 validation images, where these are left out of training, is shipped in the
package; else that with most epochs. Nothing is chosen by test images.
A run that was stopped goes on from its last epoch when the same command is repeated; one of the
same size, recipe, epochs, images and seed that is there is not made again. Writes
``labs/results/frontier.csv``, the tables in ``docs/frontier.md`` and the README, and the best file
of each size with its card into ``src/flyweight/cifar/pretrained``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.report import Row, markdown, put_table, read_rows, write_rows
from flyweight import compress, load, load_recipe, save
from flyweight.cifar import (
    AugmentedImages,
    accuracy,
    load_cifar10,
    load_pretrained,
    pretrained_card,
)
from flyweight.cli.progress import display
from flyweight.compressed import CompressedModel
from flyweight.compression import remove_states
from flyweight.recipes import Recipe
from flyweight.training import TeacherTable, choose_device
from labs.options import lab_parser, read_options
from labs.rows import RESULTS, STATES, origin
from labs.trunk import LEARNING_RATE, load_trunk, trunk_card

SIZES = (12, 15, 16, 18, 20, 25, 30, 36, 41, 45, 60)  # kB, of 1,000 bytes
DOCUMENT = Path(__file__).parents[1] / "docs" / "frontier.md"
README = Path(__file__).parents[1] / "README.md"
SHIPPED = Path(__file__).parents[1] / "src" / "flyweight" / "cifar" / "pretrained"
BATCH_SIZE = 128
DENSE_BYTES = 4 * 269_722

# Published or measured by others on ResNet-20 and CIFAR-10, in bytes and percent.
PUBLISHED = (
    ("NNCodec (ISO/IEC 15938-17), no training", 128_800, 91.40, "whole file, from 91.73 %"),
    ("NNCodec (ISO/IEC 15938-17), no training", 100_000, 90.20, "whole file, from 91.73 %"),
    ("source report, 5 bits, pruned, Huffman", 90_000, 90.19, "estimate, by a ratio of 20.67"),
    ("EC2T-2, entropy-constrained ternary", 44_000, 91.01, "its checkpoint coded, from 91.67 %"),
    ("EC2T-3, entropy-constrained ternary", 37_500, 90.76, "its checkpoint coded, from 91.67 %"),
)


def recipe_of(kilobytes: int, name: str, epochs: int | None) -> Recipe:
    """The recipe of a row."""
    recipe = load_recipe(name).with_target(1000 * kilobytes)
    if epochs is None:
        return recipe
    return dataclasses.replace(
        recipe, fine_tuning=dataclasses.replace(recipe.fine_tuning, epochs=epochs)
    )


def from_trunk(recipe: Recipe, steps: Mapping[str, float]) -> Recipe:
    """The recipe of a branch, which goes on at the rate and on the grid of the trunk."""
    assert recipe.quantization is not None
    return dataclasses.replace(
        recipe,
        quantization=dataclasses.replace(recipe.quantization, steps=dict(steps), target_ramp=0.4),
        fine_tuning=dataclasses.replace(
            recipe.fine_tuning, learning_rate=LEARNING_RATE, warmup=0.02
        ),
    )


def make(
    kilobytes: int, recipe: Recipe, options: argparse.Namespace
) -> tuple[Row, CompressedModel]:
    """Train towards a size; return its row and what was saved."""
    begin = time.perf_counter()
    data, target = load_cifar10(options.data), choose_device(options.device)
    images = data.split("train50k" if options.all_images else "train45k").to(target)
    tested = data.split("test").to(target)
    states = STATES / "frontier"
    begun = any(states.rglob("*.pt"))
    dense = load_pretrained("resnet20")
    teacher = TeacherTable(STATES / "teacher-frontier.sqlite", dense) if options.views else dense
    model, before = dense, 0
    if options.trunk:
        model, steps = load_trunk()
        recipe, before = from_trunk(recipe, steps), trunk_card()["epochs"]
    with display(quiet=False) as progress:
        compressed = compress(
            model,
            recipe,
            data=AugmentedImages(
                images, batch_size=BATCH_SIZE, seed=options.seed, views=options.views
            ),
            evaluate=lambda model: accuracy(model, tested),
            teacher=teacher,
            device=options.device,
            seed=options.seed,
            resume=states,
            progress=progress,
        )
    remove_states(states, compressed.report.run)
    path = STATES / f"{kilobytes}kB.fly"
    size = save(compressed, path)
    network = load(path).to(target)
    held_out = accuracy(network, data.split("validation").to(target))
    row = {
        "size": f"{kilobytes}kB",
        "recipe": recipe.name,
        "trunk_epochs": before,
        "epochs": recipe.epochs,
        "learning_rate": recipe.fine_tuning.learning_rate,
        "images": "50k" if options.all_images else "45k",
        "views": options.views or "",
        "file_bytes": size,
        "compression_ratio": f"{compressed.report.compression_ratio:.2f}",
        "zeros": f"{compressed.report.sparsity:.4f}",
        "dense_accuracy": pretrained_card("resnet20")["test_accuracy"],
        "validation_accuracy": "" if options.all_images else f"{held_out:.4f}",
        "test_accuracy": compressed.report.score_after,
    }
    return row | origin(options.seed, target, begin, whole=not begun), compressed


def ship(row: Row, rows: Sequence[Row], compressed: CompressedModel, command: str) -> None:
    """Put a file into the package, if it is the one of its size to be shipped."""
    if best([*rows, row], row["size"]) is not row:
        return
    name = f"resnet20-{str(row['size']).lower()}"
    save(compressed, SHIPPED / f"{name}.fly", force=True)
    card = {"architecture": "resnet20", "command": command, **row}
    (SHIPPED / f"{name}.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def best(rows: Sequence[Row], size: object) -> Row:
    """The row of a size whose file is shipped: best by validation images, then of most epochs."""

    def rank(row: Row) -> tuple[float, int]:
        return float(row["validation_accuracy"] or 0), _epochs(row)

    return max(reversed([row for row in rows if row["size"] == size]), key=rank)


def _epochs(row: Row) -> int:
    return int(row["trunk_epochs"] or 0) + int(row["epochs"])


def table(rows: Sequence[Row]) -> str:
    """Markdown of the files, smallest first, and beside them those of others."""
    ours = sorted(rows, key=lambda row: (int(row["file_bytes"]), -float(row["test_accuracy"])))
    columns = ["file, bytes", "ratio", "test accuracy, %", "from, %", "validation, %"]
    columns += ["epochs", "images", "seed", ":device", ":commit"]
    cells = [
        (
            f"{int(row['file_bytes']):,}",
            f"{float(row['compression_ratio']):.1f}",
            f"{100 * float(row['test_accuracy']):.2f}",
            f"{100 * float(row['dense_accuracy']):.2f}",
            f"{100 * float(row['validation_accuracy']):.2f}" if row["validation_accuracy"] else "",
            _epochs(row),
            row["images"],
            row["seed"],
            row["device"],
            row["commit"],
        )
        for row in ours
    ]
    others = [
        (name, f"{size:,}", f"{score:.2f}", how)
        for name, size, score, how in sorted(PUBLISHED, key=lambda other: other[1])
    ]
    return "\n\n".join(
        [
            markdown(columns, cells),
            "Others, on ResNet-20 and CIFAR-10:",
            markdown([":method", "bytes", "test accuracy, %", ":how counted"], others),
        ]
    )


def curve(rows: Sequence[Row]) -> str:
    """Markdown of what is shipped, and of others, by bytes."""
    ours = [
        (
            "**flyweight**",
            int(row["file_bytes"]),
            100 * float(row["test_accuracy"]),
            f"whole file, from {100 * float(row['dense_accuracy']):.2f} %",
        )
        for row in (best(rows, size) for size in dict.fromkeys(row["size"] for row in rows))
    ]
    cells = [
        (name, f"{size:,}", f"{DENSE_BYTES / size:.1f}", f"{score:.2f}", how)
        for name, size, score, how in sorted([*ours, *PUBLISHED], key=lambda each: each[1])
    ]
    return markdown([":ResNet-20, CIFAR-10", "bytes", "ratio", "accuracy, %", ":counted"], cells)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the rows that are named, and rewrite the table after each."""
    parser = lab_parser("The smallest files of ResNet-20.", rows=True)
    parser.add_argument("--epochs", type=int, help="of training; default: those of the recipe")
    parser.add_argument("--recipe", default="smallest", help="a name or a TOML file")
    parser.add_argument("--trunk", action="store_true", help="start from that of labs.trunk")
    parser.add_argument("--all-images", action="store_true", help="train on all 50,000")
    parser.add_argument("--views", type=int, default=0, help="crops of each image; 0 for all")
    options = read_options(parser, arguments)
    known = {f"{size}kB": size for size in SIZES}
    if unknown := [name for name in options.rows if name not in known]:
        raise SystemExit(f"{', '.join(unknown)} is no row; known are {', '.join(known)}")
    print(f"from {100 * pretrained_card('resnet20')['test_accuracy']:.2f} %", flush=True)
    for name in options.rows or known:
        recipe = recipe_of(known[name], options.recipe, options.epochs)
        rows = read_rows("frontier", RESULTS)
        images = "50k" if options.all_images else "45k"
        before = trunk_card()["epochs"] if options.trunk else 0
        views, seed = str(options.views or ""), str(options.seed)
        wanted = (name, recipe.name, str(before), str(recipe.epochs), images, views, seed)
        keys = ("size", "recipe", "trunk_epochs", "epochs", "images", "views", "seed")
        if any(tuple(row[key] for key in keys) == wanted for row in rows):
            continue
        row, compressed = make(known[name], recipe, options)
        print(row, flush=True)
        rows = read_rows("frontier", RESULTS)
        command = f"python -m labs.frontier {name} --recipe {recipe.name} --epochs {recipe.epochs}"
        command += f" --seed {options.seed}" + (" --trunk" if options.trunk else "")
        command += " --all-images" if options.all_images else ""
        command += f" --views {options.views}" if options.views else ""
        ship(row, rows, compressed, command)
        write_rows("frontier", [*rows, row], RESULTS)
        put_table("labs.frontier", table([*rows, row]), DOCUMENT)
        put_table("labs.frontier", curve([*rows, row]), README)


if __name__ == "__main__":
    main()
