"""Few bits without training, beside NNCodec: bytes of the file against accuracy.

    python -m labs.post_training [ROW ...] [--device auto] [--data DIR] [--seed 0]

Makes files of the ResNet-20 of the labs by `compress`, without training or labels, at a
row of prices of a bit, and by NNCodec (ISO/IEC 15938-17) at its own settings; reads each back and
tests it on all 10,000 test images of CIFAR-10. Images to calibrate with are augmented ones of the
45,000 training images. ROW is flyweight or NNCodec (both if none is named), or a row of one such as
"flyweight 4e-08". A row that is there is not measured again unless the network that is shipped is
another. NNCodec runs in an environment of its own, see ``benchmarks/peers.py``; where that is
missing, the rows that are there stay. Writes ``labs/results/post_training.csv``, the tables in
``docs/quantization.md`` and the figure ``labs/results/post_training/curve.svg`` and ``.png``.
Nothing is chosen on the test images.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from benchmarks.peers import nncodec_files
from benchmarks.report import Row, markdown, put_table, read_rows, write_rows
from flyweight.batch_norm import fold_batch_norms_
from flyweight.cifar import AugmentedImages, Cifar10, accuracy, load_cifar10
from flyweight.compression import compress
from flyweight.io import load, save
from flyweight.modules import add_network_
from flyweight.quantization import PostTrainingConfig
from flyweight.recipes import Recipe
from flyweight.report import (
    LINES,
    figure_grid,
    in_style,
    label_axes,
    legend_above,
    save_figure,
)
from flyweight.training import choose_device
from labs.dense import load_pretrained, pretrained_card
from labs.options import lab_parser, read_options
from labs.rows import RESULTS, origin, wanted

DOCUMENT = Path(__file__).parents[1] / "docs" / "quantization.md"

PRICES = (3e-9, 7e-9, 1e-8, 1.5e-8, 2e-8, 2.5e-8, 3e-8, 4e-8, 6e-8, 8e-8, 1.1e-7, 1.5e-7)
PRICES += (2e-7, 2.5e-7, 3e-7, 4e-7)
CALIBRATION = 256  # images a batch; the first is for the weights
STATISTICS = 8  # batches, for batch normalization and biases
VECTORS = -36  # instead of its own -75, see `labs.post_training_choices`
NNCODEC: dict[str, tuple[dict[str, Any], Sequence[int]]] = {
    "dependent": ({"use_dq": True}, (-30, -28, *range(-26, -20))),
    "dependent, opt_qp": ({"use_dq": True, "opt_qp": True}, (-34, -32, -31, -30, -28)),
    "uniform": ({"use_dq": False}, range(-26, -19)),
    "uniform, opt_qp": ({"use_dq": False, "opt_qp": True}, (-30, -28, -26)),
    "dependent, lambda_scale 1": ({"use_dq": True, "lambda_scale": 1.0}, (-28, -26, -25, -24)),
    "uniform, lambda_scale 1": ({"use_dq": False, "lambda_scale": 1.0}, range(-26, -19)),
    "uniform, lambda_scale 2": ({"use_dq": False, "lambda_scale": 2.0}, range(-27, -21)),
    "uniform, opt_qp, lambda_scale 1": (
        {"use_dq": False, "opt_qp": True, "lambda_scale": 1.0},
        (-30, -28, -27, -26),
    ),
}
DROPS = (0.2, 0.3, 0.5, 1.0, 1.5)  # points of accuracy

Point = tuple[float, float]
"""Accuracy, bytes."""


@dataclass(frozen=True)
class Exercise:
    """A row: whose file, and how it is made."""

    name: str
    price: float = 0.0
    settings: tuple[tuple[str, Any], ...] = ()


def exercises() -> list[Exercise]:
    """All rows, in the order of the table.

    NNCodec gets what helps it of what it can do without training: dependent quantization or a
    uniform grid, one qp for all layers or its own choice for each (opt_qp), rounding to the nearest
    level or to one that takes fewer bits (lambda_scale).
    """
    rows = [Exercise(f"flyweight {price:g}", price=price) for price in PRICES]
    for kind, (settings, qps) in NNCODEC.items():
        for qp in qps:
            every = nncodec_settings(qp, **settings)
            rows.append(Exercise(f"NNCodec {kind} {qp}", settings=tuple(every.items())))
    return rows


def nncodec_settings(qp: int, **others: Any) -> dict[str, Any]:
    """What NNCodec is told."""
    return {"qp": qp, "nonweight_qp": VECTORS, "row_skipping": True, **others}


def network_of(model: nn.Module) -> str:
    """Twelve hexadecimal digits that tell this network from others."""
    digest = hashlib.sha256()
    add_network_(digest, model)
    return digest.hexdigest()[:12]


def calibration_batches(data: Cifar10, seed: int) -> list[Tensor]:
    """Augmented images of the 45,000 training images."""
    drawn = AugmentedImages(data.split("train45k"), batch_size=CALIBRATION, seed=seed)
    return [inputs for inputs, _ in itertools.islice(drawn, STATISTICS)]


def write_ours(price: float, data: Cifar10, seed: int, path: Path) -> int:
    """Write the network of the labs without training, at a price of a bit."""
    batches = calibration_batches(data, seed)
    recipe = Recipe(
        name="post-training",
        post_training=PostTrainingConfig(loss_per_bit=price),
        float_dtype="bfloat16",
    )
    return save(compress(load_pretrained("resnet20"), recipe, data=batches, device="cpu"), path)


def nncodec_networks(chosen: Sequence[Exercise]) -> Iterator[tuple[Exercise, int, nn.Module]]:
    """The shipped network by NNCodec: bytes of each file, and the network read from it.

    Batch normalization is folded to two vectors before, as in our files.
    """
    model = load_pretrained("resnet20")
    fold_batch_norms_(model)
    constant = ("running_mean", "running_var", "num_batches_tracked")
    state = {
        name: tensor.numpy().astype(np.float32)
        for name, tensor in model.state_dict().items()
        if not name.endswith(constant)
    }
    with tempfile.TemporaryDirectory() as folder:
        settings = [dict(exercise.settings) for exercise in chosen]
        files = nncodec_files([*state.values()], settings, Path(folder))
        for exercise, (path, decoded) in zip(chosen, files, strict=bool(files)):
            filled = copy.deepcopy(model)
            tensors = dict(zip(state, map(torch.from_numpy, decoded), strict=True))
            filled.load_state_dict(tensors, strict=False)
            yield exercise, path.stat().st_size, filled


def measure(chosen: Sequence[Exercise], data: Cifar10, device: str, seed: int) -> Iterator[Row]:
    """Bytes and accuracy of each, one after the other."""
    target = choose_device(device)
    test = data.split("test").to(target)
    network = network_of(load_pretrained("resnet20"))

    def row(exercise: Exercise, size: int, model: nn.Module, begin: float) -> Row:
        return {
            "row": exercise.name,
            "network": network,
            "dense": pretrained_card("resnet20")["test_accuracy"],
            "bytes": size,
            "accuracy": accuracy(model.to(target, memory_format=torch.channels_last), test),
            **origin(seed, target, begin),
        }

    for exercise in chosen:
        if exercise.price:
            begin = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "post-training.fly"
                size = write_ours(exercise.price, data, seed, path)
                model = load(path)
            yield row(exercise, size, model, begin)
    theirs = [exercise for exercise in chosen if exercise.settings]
    if theirs:
        begin = time.perf_counter()
        for exercise, size, model in nncodec_networks(theirs):
            yield row(exercise, size, model, begin)
            begin = time.perf_counter()


def lower_hull(points: Sequence[Point]) -> list[Point]:
    """The points that no mixture of others is below: least bytes at each accuracy, by accuracy.

    Example:
        >>> lower_hull([(0.9, 100), (0.8, 50), (0.85, 90), (0.7, 60)])
        [(0.8, 50), (0.9, 100)]
    """
    hull: list[Point] = []
    for right, size in sorted(points, key=lambda point: (point[1], -point[0])):
        if hull and right <= hull[-1][0]:
            continue  # more bytes and not better
        while len(hull) > 1:
            (x0, y0), (x1, y1) = hull[-2:]
            if (y1 - y0) * (right - x0) < (size - y0) * (x1 - x0):
                break
            hull.pop()
        hull.append((right, size))
    return hull


def bytes_at(hull: Sequence[Point], right: float) -> float | None:
    """Bytes on the hull, linearly between its points; None beyond them."""
    if not hull or not hull[0][0] <= right <= hull[-1][0]:
        return None
    return float(np.interp(right, *zip(*hull, strict=True)))


def points_of(rows: Sequence[Row], codec: str) -> list[Point]:
    """Accuracy and bytes of all rows of a codec."""
    return [
        (float(row["accuracy"]), float(row["bytes"]))
        for row in rows
        if row["row"].startswith(codec)
    ]


def tables(rows: Sequence[Row]) -> str:
    """Markdown: what each takes at equal accuracy, then all rows."""
    dense = float(rows[0]["dense"])
    hulls = [lower_hull(points_of(rows, codec)) for codec in ("flyweight", "NNCodec")]
    compared = []
    for drop in DROPS:
        ours, theirs = (bytes_at(hull, dense - drop / 100) for hull in hulls)
        ratio = f"**{ours / theirs:.2f}**" if ours and theirs else ""
        sizes = [f"{size:,.0f}" if size else "" for size in (ours, theirs)]
        compared.append([f"{drop:.1f} points", *sizes, ratio])
    every = [
        [
            row["row"],
            f"{int(row['bytes']):,}",
            f"{100 * float(row['accuracy']):.2f} %",
            f"{100 * (dense - float(row['accuracy'])):.2f} points",
            f"seed {row['seed']}, {row['device']}, {row['commit']}",
        ]
        for row in rows
    ]
    texts = [
        markdown([":drop", "flyweight, bytes", "NNCodec, bytes", "ratio"], compared),
        markdown([":row", "bytes", "accuracy", "drop", ":origin"], every),
    ]
    return "\n\n".join(texts)


@in_style
def figure_of(rows: Sequence[Row]) -> Figure:
    """Accuracy by bytes: all points, and the lower hull of each codec as a line."""
    figure, (axes,) = figure_grid(1, 1, height=4.0)
    for codec, look in zip(("flyweight", "NNCodec"), LINES, strict=False):
        points = points_of(rows, codec)
        alone = {**look, "linestyle": "none", "markerfacecolor": "none"}
        axes.plot(*_kilobytes(points), **alone)
        axes.plot(*_kilobytes(lower_hull(points)), **look, label=codec)
    dense = 100 * float(rows[0]["dense"])
    weights = sum(value.nbytes for value in load_pretrained("resnet20").parameters())
    axes.axhline(dense, color="0.5", linewidth=0.8, label=f"dense, {weights / 1000:,.0f} kB")
    axes.set_ylim(dense - 5, dense + 0.5)
    label_axes(axes, "ResNet-20 without training", "file, kB", "accuracy on test images, %")
    legend_above(figure, axes)
    return figure


def _kilobytes(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [size / 1000 for _, size in points], [100 * right for right, _ in points]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing, write rows and tables, draw the figure."""
    parser = lab_parser("Few bits without training, beside NNCodec.", rows=True)
    options = read_options(parser, arguments)
    network = network_of(load_pretrained("resnet20"))
    rows = read_rows("post_training", RESULTS)
    known = {row["row"] for row in rows if row["network"] == network}
    missing = [e for e in wanted(options.rows, exercises()) if e.name not in known]
    if missing:
        data = load_cifar10(options.data)
        for row in measure(missing, data, options.device, options.seed):
            print(row, flush=True)
            rows = [old for old in read_rows("post_training", RESULTS) if old["network"] == network]
            every = {old["row"]: old for old in [*rows, row]}
            ordered = [every[e.name] for e in exercises() if e.name in every]
            write_rows("post_training", ordered, RESULTS)
    ordered = read_rows("post_training", RESULTS)
    if ordered:
        print(tables(ordered), flush=True)
        put_table("labs.post_training", tables(ordered), DOCUMENT)
        figure, folder = figure_of(ordered), RESULTS / "post_training"
        folder.mkdir(exist_ok=True)
        for form in ("svg", "png"):
            save_figure(figure, folder / f"curve.{form}")


if __name__ == "__main__":
    main()
