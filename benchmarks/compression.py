"""Compress the shipped ResNet-20 by a recipe, note what came out, and put it into the README.

    python -m benchmarks.compression quick full [--seeds 0 1 2] [--device auto]
    python -m benchmarks.compression            # only rewrite the table

Every run adds a row to ``benchmarks/results/compression.csv``. The table in the README has, for
each recipe, the mean over the seeds of the newest commit and device that were measured. Rows of
another dense network than the shipped one are left out.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import Row, append_rows, markdown, put_table, read_rows
from flyweight._provenance import source_commit
from flyweight.cifar import load_pretrained, pretrained_card, task
from flyweight.compression import compress, remove_states
from flyweight.training import keep_freed_memory

ARCHITECTURE = "resnet20"
STATES = Path.home() / ".cache" / "flyweight" / "compression"
COLUMNS = {  # of the table, by the names of the report
    "score_before": "accuracy_before",
    "score_after": "accuracy_after",
    "outputs_identical": "reload_identical",
}
README = Path(__file__).parents[1] / "README.md"


def run(recipe: str, seed: int, device: str) -> Row:
    """Compress once; the row says what was measured, and how long it took if it was one go.

    A run that is stopped goes on from its last epoch when it is started again on the same commit.
    """
    states = STATES / f"{recipe}-{seed}-{source_commit()}"
    model = load_pretrained(ARCHITECTURE)
    report = compress(
        model, recipe, **task(device=device), device=device, seed=seed, resume=states
    ).report
    remove_states(states, report.run)
    measured = report.to_dict()
    seconds = measured.pop("seconds")
    del measured["run"]
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "model": ARCHITECTURE,
        **{COLUMNS.get(key, key): value for key, value in measured.items()},
        "minutes": "" if seconds is None else round(seconds / 60, 2),
    }


def table(rows: Sequence[Row]) -> str:
    """Markdown of the newest results of each recipe beside the network they start from."""
    card = pretrained_card(ARCHITECTURE)
    columns = [":ResNet-20 on CIFAR-10", "file, bytes", "compression ratio", "course ratio"]
    columns += ["accuracy", "drop", "zeros", "minutes", ":runs, device, commit"]
    source = f"seed {card['seed']}, {card['epochs']} epochs, {card['device']}, {card['commit']}"
    size, accuracy = f"{4 * card['parameters']:,}", f"{card['test_accuracy']:.2%}"
    cells = [["dense fp32", size, "1x", "1x", accuracy, "", "", "", source]]
    dense = card["test_accuracy"]  # another processor may round a few logits the other way
    rows = [row for row in rows if abs(float(row["accuracy_before"]) - dense) < 1e-3]
    for recipe in dict.fromkeys(row["recipe"] for row in rows):
        last = [row for row in rows if row["recipe"] == recipe][-1]
        key = ("recipe", "commit", "device", "accuracy_before")
        same = [row for row in rows if all(row[k] == last[k] for k in key)]

        def mean(column: str, chosen: Sequence[Row] = same) -> float:
            return statistics.mean(float(row[column]) for row in chosen)

        drop = 100 * (mean("accuracy_before") - mean("accuracy_after"))
        seeds = ", ".join(row["seed"] for row in same)
        cells.append(
            [
                f"`{recipe}`",
                f"{mean('file_bytes'):,.0f}",
                f"**{mean('compression_ratio'):.1f}x**",
                f"{mean('course_ratio'):.1f}x",
                f"{mean('accuracy_after'):.2%}",
                f"{drop:.2f} points",
                f"{mean('sparsity'):.0%}",
                f"{mean('minutes'):.1f}" if all(row["minutes"] for row in same) else "",
                f"seed {seeds}, {last['epochs']} epochs, {last['device']}, {last['commit']}",
            ]
        )
    return markdown(columns, cells)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what was asked for, then rewrite the table."""
    parser = argparse.ArgumentParser(description="Compress the shipped network.")
    parser.add_argument("recipes", nargs="*")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    keep_freed_memory()
    source_commit()  # of the code that runs, whatever is edited meanwhile
    for recipe in options.recipes:
        for seed in options.seeds:
            row = run(recipe, seed, options.device)
            append_rows("compression", [row])
            print(row, flush=True)
    put_table("compression", table(read_rows("compression")), README)


if __name__ == "__main__":
    main()
