"""Figures of quantization: the values of each layer, error against bits, accuracy and bytes.

    python -m labs.quantization_figures

Of the shipped ResNet-20: its weights before, and with 80 % pruned by one threshold and the others
in 16 values a layer (k-means, the optimum); the error of each scheme that needs no training at 2 to
6 bits, which it writes into ``labs/results/quantization_errors.csv``; and, from
``labs/results/quantization.csv`` as ``labs.quantization`` left it, accuracy and bytes before any
training and after it. Takes a minute and no data. Figures are ``labs/results/quantization/*.svg``,
shown in ``docs/quantization.md``.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import asdict

import torch
from matplotlib.figure import Figure
from torch import nn

from benchmarks.report import Row, read_rows, write_rows
from flyweight.modules import select_weights
from flyweight.pruning import global_magnitude_masks
from flyweight.quantization import SchemeError, compare_schemes, quantize_kmeans
from flyweight.report import (
    QuantizedPoint,
    accuracy_figure,
    error_figure,
    histogram_figure,
    save_figure,
)
from labs.dense import load_pretrained
from labs.options import read_options
from labs.quantization import exercises
from labs.rows import RESULTS, where

SPARSITY = 0.8
BITS = 4
KMEANS = re.compile(r"kmeans \d (?P<scheme>\S+)")
FIXED = re.compile(r"fixed (?P<scheme>[a-z-]+)( \d)?")
CHANNELS = re.compile(r"fixed (?P<scheme>[a-z-]+) \d per channel")
SPARSE = re.compile(r"sparse (?P<scheme>[a-z-]+)( \d)?")
SPARSE_CHANNELS = re.compile(r"sparse (?P<scheme>[a-z-]+) \d per channel")
# Of each figure: its rows, and whether they are shown before training or after it.
FIGURES = {
    "kmeans": (KMEANS, "quantized"),
    "kmeans-trained": (KMEANS, "trained"),
    "fixed": (FIXED, "quantized"),
    "fixed-trained": (FIXED, "trained"),
    "channels": (CHANNELS, "quantized"),
    "channels-trained": (CHANNELS, "trained"),
    "sparse": (SPARSE, "quantized"),
    "sparse-trained": (SPARSE, "trained"),
    "sparse-channels": (SPARSE_CHANNELS, "quantized"),
    "sparse-channels-trained": (SPARSE_CHANNELS, "trained"),
}


def values(model: nn.Module) -> Figure:
    """Weights before, and pruned and in few values."""
    weights = select_weights(model)
    masks = global_magnitude_masks(weights, SPARSITY)
    after = {
        name: quantize_kmeans(weight, bits=BITS, init="optimal", mask=masks[name]).dequantize()
        for name, weight in weights.items()
    }
    return histogram_figure(weights, after)


def error_rows(points: Sequence[SchemeError]) -> list[Row]:
    """The points with their origin."""
    return [asdict(point) | where(torch.device("cpu")) for point in points]


def points_of(rows: Sequence[Row], kind: str) -> list[QuantizedPoint]:
    """What was measured for one of the figures."""
    pattern, when = FIGURES[kind]
    bits_of = {exercise.name: exercise.bits for exercise in exercises()}
    return [
        QuantizedPoint(
            name["scheme"],
            bits_of[row["row"]],
            float(row[f"{when}_accuracy"]),
            int(row[f"{when}_bytes"]),
        )
        for row in rows
        if (name := pattern.fullmatch(row["row"])) and row[f"{when}_accuracy"]
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute the errors, draw all figures."""
    read_options(argparse.ArgumentParser(description="Figures of quantization."), arguments)
    model = load_pretrained("resnet20")
    points = compare_schemes(select_weights(model))
    write_rows("quantization_errors", error_rows(points), RESULTS)
    figures = {"values": values(model), "errors": error_figure(points)}
    rows = read_rows("quantization", RESULTS)
    for kind in FIGURES:
        if measured := points_of(rows, kind):
            dense = float(rows[0]["dense"])
            figures[kind] = accuracy_figure(measured, dense_accuracy=dense)
    (RESULTS / "quantization").mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        path = RESULTS / "quantization" / f"{name}.svg"
        print(f"{path.name}: {save_figure(figure, path):,} bytes", flush=True)


if __name__ == "__main__":
    main()
