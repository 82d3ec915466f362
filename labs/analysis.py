"""What each layer of the shipped network can bear, and what pruning makes of it.

    python -m labs.analysis [--images 1000] [--device auto] [--data DIR]

Prunes one layer of the shipped ResNet-20 at a time, without retraining, and tests it on images of
the validation split of CIFAR-10: ``labs/results/sensitivity.csv``. A scan that is there already, of
as many images, is not made again.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import Row, read_rows, write_rows
from flyweight import load_cifar10, load_pretrained
from flyweight.console import progress_bar
from flyweight.data import Cifar10, Split
from flyweight.provenance import source_commit
from flyweight.pruning import SensitivityPoint, sensitivity
from flyweight.training import accuracy, choose_device, describe_device, keep_freed_memory

RESULTS = Path(__file__).parent / "results"
SPARSITIES = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95)


def scan(data: Cifar10, images: int, device: str) -> list[Row]:
    """Accuracy on images of the validation split, one layer pruned at a time."""
    target = choose_device(device)
    held_out = data.split("validation")
    every = max(1, len(held_out) // images)
    some = Split(held_out.images[::every], held_out.labels[::every]).to(target)
    with progress_bar(quiet=False) as progress:
        points = sensitivity(
            load_pretrained("resnet20").to(target),
            lambda model: accuracy(model, some),
            SPARSITIES,
            progress=progress,
        )
    return [
        {
            "weight": point.name,
            "sparsity": point.sparsity,
            "accuracy": point.score,
            "images": len(some),
            "device": describe_device(target),
            "commit": source_commit(),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        }
        for point in points
    ]


def points_of(rows: Sequence[Row]) -> list[SensitivityPoint]:
    """The points of a scan that was written."""
    return [
        SensitivityPoint(row["weight"], float(row["sparsity"]), float(row["accuracy"]))
        for row in rows
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Scan if need be."""
    parser = argparse.ArgumentParser(description="What each layer can bear.")
    parser.add_argument("--images", type=int, default=1000, help="of the validation split")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--data", type=Path)
    options = parser.parse_args(arguments)
    keep_freed_memory()
    source_commit()  # of the code that runs, whatever is edited meanwhile
    data = load_cifar10(options.data)
    rows = read_rows("sensitivity", RESULTS)
    if not rows or int(rows[0]["images"]) != options.images:
        write_rows("sensitivity", scan(data, options.images, options.device), RESULTS)


if __name__ == "__main__":
    main()
