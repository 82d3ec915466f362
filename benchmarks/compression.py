"""Compress the shipped ResNet-20 by a recipe, note what came out, and put it into the README.

    python -m benchmarks.compression quick full [--seeds 0 1 2] [--device auto]
    python -m benchmarks.compression            # only rewrite the table

Every run adds a row to ``benchmarks/results/compression.csv``. The table in the README has, for
each recipe, the mean over the seeds of the newest commit and device that were measured.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import statistics
import tempfile
import time
from pathlib import Path

from flyweight.models import pretrained_card
from flyweight.proof import compress_to_file
from flyweight.training import keep_freed_memory

ARCHITECTURE = "resnet20"
RESULTS = Path(__file__).parent / "results" / "compression.csv"
README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- results: python -m benchmarks.compression -->", "<!-- end of results -->"


def run(recipe: str, seed: int, device: str) -> dict[str, object]:
    """Compress once into a temporary folder; the row says what was measured, and how long."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        report = compress_to_file(
            ARCHITECTURE, Path(folder) / "model.fly", recipe, device=device, seed=seed
        )
        minutes = (time.perf_counter() - start) / 60
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "model": ARCHITECTURE,
        **report.to_dict(),
        "minutes": round(minutes, 2),
    }


def append(row: dict[str, object]) -> None:
    """Add a row to the table of results, which is made if there is none."""
    RESULTS.parent.mkdir(exist_ok=True)
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(row), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def table() -> str:
    """Markdown of the newest results of each recipe beside the network they start from."""
    card = pretrained_card(ARCHITECTURE)
    lines = [
        "| ResNet-20 on CIFAR-10 | file, bytes | compression ratio | course ratio | accuracy "
        "| drop | zeros | minutes | runs, device, commit |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---|",
        f"| dense fp32 | {4 * card['parameters']:,} | 1x | 1x | {card['test_accuracy']:.2%} | | | "
        f"| seed {card['seed']}, {card['epochs']} epochs, {card['device']}, {card['commit']} |",
    ]
    rows = []
    if RESULTS.exists():
        with RESULTS.open(newline="") as file:
            rows = list(csv.DictReader(file))
    for recipe in dict.fromkeys(row["recipe"] for row in rows):
        last = [row for row in rows if row["recipe"] == recipe][-1]
        key = ("recipe", "commit", "device", "accuracy_before")
        same = [row for row in rows if all(row[k] == last[k] for k in key)]

        def mean(column: str, chosen: list[dict[str, str]] = same) -> float:
            return statistics.mean(float(row[column]) for row in chosen)

        drop = 100 * (mean("accuracy_before") - mean("accuracy_after"))
        seeds = ", ".join(row["seed"] for row in same)
        lines.append(
            f"| `{recipe}` | {mean('file_bytes'):,.0f} | **{mean('compression_ratio'):.1f}x** "
            f"| {mean('course_ratio'):.1f}x | {mean('accuracy_after'):.2%} | {drop:.2f} points "
            f"| {mean('sparsity'):.0%} | {mean('minutes'):.0f} | seed {seeds}, "
            f"{last['epochs']} epochs, {last['device']}, {last['commit']} |"
        )
    return "\n".join(lines)


def rewrite_readme() -> None:
    """Put the table between its two marks in the README."""
    text = README.read_text()
    before, rest = text.split(BEGIN)
    README.write_text(f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}")


def main() -> None:
    """Run what was asked for, then rewrite the table."""
    parser = argparse.ArgumentParser(description="Compress the shipped network.")
    parser.add_argument("recipes", nargs="*")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    keep_freed_memory()
    for recipe in options.recipes:
        for seed in options.seeds:
            row = run(recipe, seed, options.device)
            append(row)
            print(row, flush=True)
    rewrite_readme()


if __name__ == "__main__":
    main()
