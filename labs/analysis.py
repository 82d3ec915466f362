"""Figures of pruning: what each layer can bear, and what pruning makes of layers and filters.

    python -m labs.analysis [--images 1000] [--device auto] [--data DIR]

Prunes one layer of the dense ResNet-20 at a time, without retraining, and tests it on images of
the validation split of CIFAR-10 (``labs/results/sensitivity.csv``); from the cross-entropy there,
gives each layer a sparsity such that 80 % of all weights go, and tests on the 10,000 test images
what becomes of the network so and otherwise (``labs/results/allocation.csv`` and the table in
``docs/pruning.md``). What is there already, of as many images, is not measured again. The figures
are drawn anew each time, as ``labs/results/*.svg``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.report import Row, markdown, put_table, read_rows, write_rows
from flyweight.cifar import Cifar10, Split, accuracy, load_cifar10, predict
from flyweight.cli.progress import display
from flyweight.modules import apply_masks_, select_weights
from flyweight.pruning import (
    SensitivityPoint,
    allocate,
    choose_masks,
    filter_mask,
    filter_sums,
    sensitivity,
    summarize_sparsity,
)
from flyweight.report import (
    allocation_figure,
    filters_figure,
    save_figure,
    sensitivity_figure,
    sparsity_figure,
)
from flyweight.training import choose_device
from labs.dense import load_pretrained
from labs.options import lab_parser, read_options
from labs.rows import where

RESULTS = Path(__file__).parent / "results"
DOCUMENT = Path(__file__).parents[1] / "docs" / "pruning.md"
SPARSITIES = (0.0, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
SPARSITY = 0.8


def scan(model: nn.Module, data: Cifar10, images: int, device: str) -> list[Row]:
    """Scores on images of the validation split, one layer pruned at a time."""
    target = choose_device(device)
    held_out = data.split("validation")
    every = max(1, len(held_out) // images)
    some = Split(held_out.images[::every], held_out.labels[::every]).to(target)
    accuracies: dict[float, float] = {}  # by cross-entropy: one forward pass gives both

    def evaluate(pruned: nn.Module) -> float:
        logits = predict(pruned, some.images)
        score = -float(F.cross_entropy(logits, some.labels))
        accuracies[score] = float((logits.argmax(dim=1) == some.labels).double().mean())
        return score

    with display(quiet=False) as progress:
        points = sensitivity(model.to(target), evaluate, SPARSITIES, progress=progress)
    return [
        {
            "weight": point.name,
            "sparsity": point.sparsity,
            "accuracy": accuracies[point.score],
            "cross_entropy": -point.score,
            "images": len(some),
            **where(target),
        }
        for point in points
    ]


def points_of(rows: Sequence[Row], score: str) -> list[SensitivityPoint]:
    """The points of a scan that was written, by one of its scores."""
    sign = -1 if score == "cross_entropy" else 1
    return [
        SensitivityPoint(row["weight"], float(row["sparsity"]), sign * float(row[score]))
        for row in rows
    ]


def magnitudes(model: nn.Module) -> dict[str, Tensor]:
    """Of all weights that can be pruned."""
    return {name: weight.detach().abs() for name, weight in select_weights(model).items()}


def masked(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """A copy with zeros where the masks say so."""
    pruned = copy.deepcopy(model)
    apply_masks_(select_weights(pruned), masks)
    return pruned


def ways(model: nn.Module, rows: Sequence[Row]) -> dict[str, nn.Module]:
    """The network, 80 % of it pruned at once, by three ways to share that among the layers."""
    scores = magnitudes(model)
    points = points_of(rows, "cross_entropy")
    found = allocate(points, {name: score.numel() for name, score in scores.items()}, SPARSITY)
    masks = {
        "the same in each layer": choose_masks(scores, SPARSITY, scope="layer"),
        "one threshold": choose_masks(scores, SPARSITY),
        "by the scan": choose_masks(scores, SPARSITY, overrides=found),
    }
    return {way: masked(model, chosen) for way, chosen in masks.items()}


def compared(networks: Mapping[str, nn.Module], data: Cifar10, device: str) -> list[Row]:
    """Each network tested."""
    target = choose_device(device)
    test = data.split("test").to(target)
    return [
        {
            "way": way,
            "sparsity": summarize_sparsity(network).sparsity,
            "accuracy": accuracy(copy.deepcopy(network).to(target), test),
            **where(target),
        }
        for way, network in networks.items()
    ]


def figures(model: nn.Module, rows: Sequence[Row]) -> dict[str, Figure]:
    """All figures, by the name of their file."""
    networks = ways(model, rows)
    given = {
        way: {layer.name: layer.sparsity for layer in summarize_sparsity(network).layers}
        for way, network in networks.items()
    }
    single = networks["one threshold"]
    inner = select_weights(model, include=["stages.*.conv1.weight"])
    whole = masked(model, {name: filter_mask(weight, 0.5) for name, weight in inner.items()})
    told = f"accuracy, fraction of {int(rows[0]['images']):,} validation images"
    return {
        "layers": sparsity_figure(summarize_sparsity(single)),
        "filters-single": filters_figure(sums_of(single)),
        "filters-whole": filters_figure(sums_of(whole)),
        "sensitivity": sensitivity_figure(
            points_of(rows, "accuracy"), allocation=given["by the scan"], score=told
        ),
        "allocation": allocation_figure(given),
    }


def sums_of(model: nn.Module) -> dict[str, Tensor]:
    """Sum of the magnitudes of each filter, by the name of its weight."""
    return {name: filter_sums(weight) for name, weight in select_weights(model).items()}


def table(rows: Sequence[Row]) -> str:
    """Markdown of what was compared."""
    cells = [
        (
            row["way"],
            f"{100 * float(row['sparsity']):.2f} %",
            f"{100 * float(row['accuracy']):.2f} %",
            f"{row['device']}, {row['commit']}",
        )
        for row in rows
    ]
    return markdown([":80 % shared out", "sparsity", "test accuracy", ":origin"], cells)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing, write the table, draw the figures."""
    parser = lab_parser("Figures of pruning.", seed=None)
    parser.add_argument("--images", type=int, default=1000, help="of the validation split")
    options = read_options(parser, arguments)
    model = load_pretrained("resnet20")
    rows = read_rows("sensitivity", RESULTS)
    ends = read_rows("allocation", RESULTS)
    if not rows or int(rows[0]["images"]) != options.images:
        rows = scan(
            copy.deepcopy(model), load_cifar10(options.data), options.images, options.device
        )
        write_rows("sensitivity", rows, RESULTS)
        ends = []
    if not ends:
        ends = compared(ways(model, rows), load_cifar10(options.data), options.device)
        write_rows("allocation", ends, RESULTS)
    print(table(ends), flush=True)
    put_table("labs.analysis", table(ends), DOCUMENT)
    for name, figure in figures(model, rows).items():
        path = RESULTS / f"{name}.svg"
        print(f"{path.name}: {save_figure(figure, path):,} bytes", flush=True)


if __name__ == "__main__":
    main()
