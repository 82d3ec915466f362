"""What was chosen for the rows of `labs.post_training`, on images that are not test images.

    python -m labs.post_training_choices [ROW ...] [--device auto] [--data DIR] [--seed 0]

Writes the shipped ResNet-20 as `labs.post_training` does, and with one thing done otherwise; reads
each file back and compares its answers with those of the dense network on the 5,000 images that
were held out of training. Divergence tells more than accuracy there: it has no noise of labels. ROW
is flyweight or NNCodec, or a row of one. A row that is there is not measured again. Writes
``labs/results/post_training_choices.csv`` and the table in ``docs/quantization.md``.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.report import Row, markdown, put_table, read_rows, write_rows
from flyweight.batch_norm import (
    batch_norm_drift,
    fold_batch_norms_,
    reestimate_batch_norms_,
)
from flyweight.cifar import Cifar10, Split, load_cifar10, predict
from flyweight.compressed import compress_module
from flyweight.io import load, save
from flyweight.modules import architecture_of, select_weights
from flyweight.quantization import (
    PostTrainingConfig,
    correct_biases_,
    quantize_post_training,
)
from flyweight.training import choose_device
from labs.dense import load_pretrained
from labs.options import lab_parser, read_options
from labs.post_training import (
    calibration_batches,
    nncodec_networks,
    nncodec_settings,
)
from labs.rows import RESULTS, origin, wanted

NAME = "post_training_choices"
DOCUMENT = Path(__file__).parents[1] / "docs" / "quantization.md"
PRICES = (1e-8, 4e-8)
QPS = {True: (-26, -23), False: (-24, -22)}  # dependent quantization or not

# What the recipe "post-training" does, and each part of it left out or done otherwise.
OURS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "layers by Fisher information alone": {"measured": False},
    "each weight alone": {"gptq": False},
    "batch normalization as it was": {"drift": False},
    "statistics of the calibration images": {"drift": None},
    "biases as they were": {"biases": False},
    "vectors of 6 bits": {"float_mantissa_bits": 5},
    "vectors of 4 bits": {"float_mantissa_bits": 3},
}
THEIRS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "vectors at -75": {"nonweight_qp": -75},
    "codebooks": {"codebook_mode": 2},
    "lambda_scale 1": {"lambda_scale": 1.0},
    "lambda_scale 2": {"lambda_scale": 2.0},
}


@dataclass(frozen=True)
class Exercise:
    """A row: whose file, how coarse, and what is done otherwise."""

    name: str
    otherwise: str
    price: float = 0.0
    settings: tuple[tuple[str, Any], ...] = ()


def exercises() -> list[Exercise]:
    """All rows, in the order of the table."""
    rows = [
        Exercise(f"flyweight {price:g}, {otherwise}", otherwise, price=price)
        for price in PRICES
        for otherwise in OURS
    ]
    for dependent, qps in QPS.items():
        kind = "dependent" if dependent else "uniform"
        for qp, (otherwise, changed) in itertools.product(qps, THEIRS.items()):
            if "codebook_mode" in changed and dependent:
                continue  # NNCodec has codebooks for uniform grids only
            settings = nncodec_settings(qp, use_dq=dependent) | changed
            name = f"NNCodec {kind} {qp}, {otherwise}"
            rows.append(Exercise(name, otherwise, settings=tuple(settings.items())))
    return rows


def write_ours(exercise: Exercise, batches: Sequence[Tensor], path: Path) -> int:
    """Write the network of the labs without training, with one thing done otherwise."""
    changed = OURS[exercise.otherwise]
    dense, model = load_pretrained("resnet20").eval(), load_pretrained("resnet20").eval()
    drift = batch_norm_drift(model, batches)
    config = PostTrainingConfig(
        loss_per_bit=exercise.price,
        gptq=changed.get("gptq", True),
        measured=changed.get("measured", True),
    )
    _, found = quantize_post_training(dense, batches, config)
    weights = select_weights(model)
    for name, tensor in found.items():
        weights[name].data.copy_(tensor.dequantize())
    if changed.get("drift", True) is None:
        reestimate_batch_norms_(model, batches)
    elif changed.get("drift", True):
        reestimate_batch_norms_(model, batches, drift=drift)
    if changed.get("biases", True):
        correct_biases_(model, dense, batches)
    fold_batch_norms_(model)
    architecture = architecture_of(dense)
    named = {} if architecture is None else {"architecture": architecture}
    compressed = compress_module(
        model,
        found,
        float_dtype="bfloat16",
        float_mantissa_bits=changed.get("float_mantissa_bits", 0),
        metadata={"recipe": "post-training"} | named,
    )
    return save(compressed, path)


def compared(model: nn.Module, answers: Tensor, data: Split) -> Row:
    """Divergence from the dense network's answers in nats of an image, and accuracy."""
    device = data.images.device
    logits = predict(model.to(device, memory_format=torch.channels_last), data.images)
    divergence = F.kl_div(
        F.log_softmax(logits, 1), F.log_softmax(answers, 1), reduction="batchmean", log_target=True
    )
    right = float((logits.argmax(1) == data.labels.to(logits.device)).float().mean())
    return {"divergence": float(divergence), "accuracy": right}


def measure(chosen: Sequence[Exercise], data: Cifar10, device: str, seed: int) -> Iterator[Row]:
    """Bytes, divergence and accuracy of each, one after the other."""
    target = choose_device(device)
    images = data.split("validation").to(target)
    dense = load_pretrained("resnet20").to(target, memory_format=torch.channels_last)
    answers = predict(dense, images.images)
    batches = calibration_batches(data, seed)

    def row(exercise: Exercise, size: int, model: nn.Module, begin: float) -> Row:
        told = {"row": exercise.name, "bytes": size, "images": len(images)}
        return told | compared(model, answers, images) | origin(seed, target, begin)

    for exercise in chosen:
        if exercise.price:
            begin = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "choice.fly"
                size = write_ours(exercise, batches, path)
                model = load(path)
            yield row(exercise, size, model, begin)
    begin = time.perf_counter()
    theirs = [exercise for exercise in chosen if exercise.settings]
    for exercise, size, model in nncodec_networks(theirs) if theirs else ():
        yield row(exercise, size, model, begin)
        begin = time.perf_counter()


def table(rows: Sequence[Row]) -> str:
    """Markdown of all rows."""
    cells = [
        [
            row["row"],
            f"{int(row['bytes']):,}",
            f"{float(row['divergence']):.5f}",
            f"{100 * float(row['accuracy']):.2f} %",
            f"seed {row['seed']}, {row['device']}, {row['commit']}",
        ]
        for row in rows
    ]
    return markdown([":row", "bytes", "divergence, nats", "accuracy", ":origin"], cells)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing, write rows and table."""
    parser = lab_parser("Choices for files without training, on held-out images.", rows=True)
    options = read_options(parser, arguments)
    known = {row["row"] for row in read_rows(NAME, RESULTS)}
    missing = [e for e in wanted(options.rows, exercises()) if e.name not in known]
    data = load_cifar10(options.data)
    for row in measure(missing, data, options.device, options.seed):
        print(row, flush=True)
        every = {old["row"]: old for old in [*read_rows(NAME, RESULTS), row]}
        write_rows(NAME, [every[e.name] for e in exercises() if e.name in every], RESULTS)
        put_table(f"labs.{NAME}", table(read_rows(NAME, RESULTS)), DOCUMENT)


if __name__ == "__main__":
    main()
