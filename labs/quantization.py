"""The tables of quantization: k-means, fixed point, the same at 80 % sparsity.

    python -m labs.quantization [ROW ...] [--epochs 20] [--short 1] [--compile]
        [--device auto] [--data DIR]

Quantizes the shipped ResNet-20, tests it on all 10,000 test images of CIFAR-10 as loaded back from
a file, trains it with few values on the 45,000 training images and tests it again the same way.
Zeros are counted in the file, and each that was there before has to be there still. ROW is kmeans,
fixed or sparse (all of them if none is named), or a row of one such as "kmeans 5 linear". Key rows
are trained for ``--epochs``, the others for ``--short``. A row that is there already, of as many
epochs or more, is not made again; one that was interrupted goes on from its last epoch. Writes
``labs/results/quantization.csv`` and the tables in ``docs/quantization.md``. Nothing is chosen on
the test images.
"""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from benchmarks.report import Row, markdown
from flyweight.cifar import Cifar10, accuracy, load_cifar10
from flyweight.cli.progress import display
from flyweight.coding import code_lengths
from flyweight.compressed import CompressedModel, CompressedTensor
from flyweight.io import load, save
from flyweight.modules import select_weights
from flyweight.quantization import QuantizationConfig
from flyweight.training import TrainingConfig, choose_device
from labs import pruning
from labs.dense import load_pretrained, pretrained_card
from labs.options import lab_parser, read_options
from labs.rows import fill, is_begun, origin, states, wanted
from labs.stages import quantize

DOCUMENT = Path(__file__).parents[1] / "docs" / "quantization.md"

OUTER = ("conv1.weight", "linear.weight")  # in the course's exercise these stay floats
TRAINING = TrainingConfig(epochs=20, learning_rate=0.01, distillation=0.5)
SPARSE = "ways global with recovery"  # of labs.pruning: where the sparse rows start
KEY = ("fixed learned-step 4", "fixed learned-step 2", "sparse kmeans 4", "sparse kmeans 2")


@dataclasses.dataclass(frozen=True)
class Exercise:
    """A row: how the weights are quantized, and whether 80 % of them are zero before."""

    name: str
    config: QuantizationConfig = dataclasses.field(default_factory=QuantizationConfig)
    training: TrainingConfig = TRAINING

    @property
    def is_sparse(self) -> bool:
        """Whether the network is pruned first."""
        return self.name.startswith("sparse")

    @property
    def bits(self) -> int:
        """Of a value; ternary and binary ones take two, and one."""
        return {"ternary": 2, "binary": 1}.get(self.config.method, self.config.bits)


def exercises(compiled: bool = False) -> list[Exercise]:
    """All rows, in the order of the tables, to be trained by compiled code or not."""
    training = dataclasses.replace(TRAINING, compile=compiled)
    rows = [
        Exercise(f"kmeans {bits} {init}", QuantizationConfig(bits=bits, init=init), training)
        for bits in (2, 3, 4, 5, 6)
        for init in ("linear", "random", "k-means++", "density", "optimal")
    ]
    for bits in (2, 3, 4, 5):
        fisher = QuantizationConfig(bits=bits, init="optimal", importance="fisher")
        rows.append(Exercise(f"kmeans {bits} optimal, by Fisher information", fisher, training))
    rare = QuantizationConfig(bits=3, init="optimal", assignment_interval=20)
    rows.append(Exercise("kmeans 3 optimal, joined every 20 steps", rare, training))
    for kind, schemes in (
        ("fixed", ("uniform", "symmetric", "symmetric-no-zero", "learned-step")),
        ("sparse", ("kmeans", "uniform", "symmetric", "symmetric-no-zero", "learned-step")),
    ):
        for scheme, bits in itertools.product(schemes, (6, 5, 4, 3, 2)):
            config = QuantizationConfig(method=scheme, bits=bits, init="optimal", exclude=OUTER)
            rows.append(Exercise(f"{kind} {scheme} {bits}", config, training))
            if scheme != "kmeans":
                channels = dataclasses.replace(config, per_channel=True)
                rows.append(Exercise(f"{kind} {scheme} {bits} per channel", channels, training))
        for scheme in ("ternary", "binary"):
            config = QuantizationConfig(method=scheme, exclude=OUTER)
            rows.append(Exercise(f"{kind} {scheme}", config, training))
    return rows


def start_of(
    exercise: Exercise, epochs: int, data: Cifar10, device: str, seed: int
) -> tuple[nn.Module, str]:
    """The shipped network, or the one of 80 % sparsity that labs.pruning makes; its commit."""
    if not exercise.is_sparse:
        return load_pretrained("resnet20"), ""
    (way,) = (row for row in pruning.exercises(exercise.training.compile) if row.name == SPARSE)
    return pruning.retrained(way, epochs, data, device, seed)


def measured(
    compressed: CompressedModel, start: nn.Module, data: Cifar10, device: torch.device
) -> Row:
    """Bytes, zeros, mean Huffman bits and accuracy, all by what a file holds.

    Raises AssertionError where a weight that was zero at the start is another value in the file.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "quantized.fly"
        compressed = dataclasses.replace(compressed, metadata={"architecture": "resnet20"})
        size = save(compressed, path)
        model = load(path)
    weights_before = select_weights(start)
    for name, weight in select_weights(model).items():
        if bool(weight[weights_before[name] == 0].any()):
            raise AssertionError(f"{name} has values in the file where it had zeros")
    inner = [w for name, w in select_weights(model).items() if name not in OUTER]
    zeros = sum(int((weight == 0).sum()) for weight in inner)
    bits = weights = 0
    for tensor in compressed.tensors.values():
        if isinstance(tensor, CompressedTensor):
            symbols = tensor.symbols[tensor.symbols > 0].long() - 1
            counts = torch.bincount(symbols, minlength=tensor.levels.numel()).numpy()
            bits += int((counts * code_lengths(counts)).sum())
            weights += int(counts.sum())
    return {
        "bytes": size,
        "sparsity": zeros / sum(weight.numel() for weight in inner),
        "huffman_bits": bits / max(1, weights),
        "accuracy": accuracy(model.to(device), data.split("test").to(device)),
    }


def run(exercise: Exercise, epochs: int, data: Cifar10, device: str, seed: int, long: int) -> Row:
    """Quantize, test, train, test again."""
    begin, begun = time.perf_counter(), is_begun("quantization", exercise.name)
    target = choose_device(device)
    model, commit = start_of(exercise, long, data, device, seed)
    before = measured(quantized(model, exercise, 0, data, device, seed), model, data, target)
    after = None
    if epochs:
        trained = quantized(model, exercise, epochs, data, device, seed)
        after = measured(trained, model, data, target)
    return {
        "row": exercise.name,
        "epochs": epochs,
        "dense": pretrained_card("resnet20")["test_accuracy"],
        **{f"quantized_{key}": value for key, value in before.items()},
        **{f"trained_{key}": after[key] if after else "" for key in before},
        "start": commit,
        **origin(seed, target, begin, whole=not begun),
    }


def quantized(
    model: nn.Module, exercise: Exercise, epochs: int, data: Cifar10, device: str, seed: int
) -> CompressedModel:
    """The quantized network, trained for some epochs; zeros stay and none are added."""
    with states("quantization", exercise.name) as folder, display(quiet=False) as progress:
        return quantize(
            model,
            exercise.config,
            dataclasses.replace(exercise.training, epochs=epochs),
            data=data,
            device=device,
            seed=seed + 1,  # pruning, if there is any, had the one before
            states=folder if epochs else None,
            progress=progress,
        )


def tables(rows: Sequence[Row]) -> str:
    """Markdown of all rows, a table for each exercise."""
    titles = {
        "kmeans": "K-means weight sharing, all layers",
        "fixed": "Fixed point and learned levels, inner convolutions",
        "sparse": "The same, and weight sharing, at 80 % sparsity",
    }
    columns = [":row", "bytes", "zeros", "Huffman bits", "accuracy"]
    columns += ["bytes trained", "zeros", "accuracy trained", "epochs", ":origin"]
    texts = []
    for kind, title in titles.items():
        cells = [
            [
                row["row"].removeprefix(kind).strip(),
                *_cells(row, "quantized_", ("bytes", "sparsity", "huffman_bits", "accuracy")),
                *_cells(row, "trained_", ("bytes", "sparsity", "accuracy")),
                row["epochs"],
                f"seed {row['seed']}, {row['device']}, {row['commit']}",
            ]
            for row in rows
            if row["row"].startswith(kind)
        ]
        if cells:
            texts.append(f"### {title}\n\n{markdown(columns, cells)}")
    return "\n\n".join([best(rows), *texts])


def best(rows: Sequence[Row]) -> str:
    """Markdown: of the rows of each width that of most accuracy, before training and after."""
    bits_of = {exercise.name: exercise.bits for exercise in exercises()}
    cells = []
    for bits in sorted(set(bits_of.values()), reverse=True):
        for sparse in (False, True):
            for when in ("quantized", "trained"):
                those = [
                    row
                    for row in rows
                    if bits_of[row["row"]] == bits
                    and row["row"].startswith("sparse") == sparse
                    and row[f"{when}_accuracy"]
                ]
                if those:
                    row = max(those, key=lambda row: float(row[f"{when}_accuracy"]))
                    length = f"{row['epochs']} epoch{'' if str(row['epochs']) == '1' else 's'}"
                    right, dense = float(row[f"{when}_accuracy"]), float(row["dense"])
                    cells.append(
                        [
                            bits,
                            "80 % zeros" if sparse else "dense",
                            length if when == "trained" else "untrained",
                            row["row"],
                            f"{int(row[f'{when}_bytes']):,}",
                            f"{100 * right:.2f} %",
                            f"{100 * (dense - right):.2f} points",
                        ]
                    )
    columns = ["bits", ":network", ":training", ":row", "bytes", "accuracy", "drop"]
    return f"### Most accurate of each width\n\n{markdown(columns, cells)}"


def _cells(row: Row, prefix: str, keys: Sequence[str]) -> list[str]:
    written = {
        "bytes": lambda text: f"{int(text):,}",
        "sparsity": lambda text: f"{100 * float(text):.2f} %",
        "huffman_bits": lambda text: f"{float(text):.3f}",
        "accuracy": lambda text: f"{100 * float(text):.2f} %",
    }
    found = [(key, str(row[prefix + key])) for key in keys]
    return [written[key](text) if text else "" for key, text in found]


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the rows that are missing, then rewrite the tables."""
    parser = lab_parser("The tables of quantization.", rows=True, epochs=20, short=1)
    options = read_options(parser, arguments)
    chosen = wanted(options.rows, exercises(options.compile))
    data = load_cifar10(options.data)

    def epochs_of(exercise: Exercise) -> int:
        return int(options.epochs if exercise.name in KEY else options.short)

    fill(
        "quantization",
        [(exercise, epochs_of(exercise)) for exercise in chosen],
        exercises(),
        make=lambda exercise, epochs: run(
            exercise, epochs, data, options.device, options.seed, options.epochs
        ),
        tables=tables,
        document=DOCUMENT,
    )


if __name__ == "__main__":
    main()
