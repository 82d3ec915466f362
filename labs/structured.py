"""Zeros that save time and zeros that do not: filters removed against weights pruned.

    python -m labs.structured [--epochs 4] [--device auto] [--data DIR]

The shipped ResNet-20 three times: dense; with as many single weights pruned as the third one loses;
and with half of the filters of the first convolution of each block pruned by their norm, retrained,
cut out, and retrained again. All are tested on the 10,000 test images of CIFAR-10 and timed, one
image and 128 at once; a pruned network is an ordinary dense one to the machine. All of this is of
networks loaded from files that hold 32 values a layer, which were not trained. Writes
``labs/results/structured.csv`` and the table in ``docs/pruning.md``.
"""

from __future__ import annotations

import copy
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.report import Row, markdown, put_table, write_rows
from flyweight import (
    CompressedModel,
    PruningRecipe,
    decompress,
    load_cifar10,
    load_pretrained,
    prune,
    save,
    summary,
)
from flyweight.data import Cifar10
from flyweight.quantization import share
from flyweight.structured import remove_filters
from flyweight.training import TrainingConfig, accuracy, choose_device
from labs.options import lab_parser, read_options
from labs.rows import where

RESULTS = Path(__file__).parent / "results"
DOCUMENT = Path(__file__).parents[1] / "docs" / "pruning.md"
INNER = ("stages.*.conv1.weight",)
BATCHES = (1, 128)


def milliseconds(models: Mapping[str, nn.Module], images: Tensor, repeats: int) -> dict[str, float]:
    """Median time of a forward pass of each, in turn, after three to warm up."""
    times: dict[str, list[float]] = {name: [] for name in models}
    with torch.inference_mode():
        for _ in range(repeats + 3):
            for name, model in models.items():
                begin = time.perf_counter()
                model(images)
                if images.is_cuda:
                    torch.cuda.synchronize(images.device)
                times[name].append(time.perf_counter() - begin)
    return {name: 1000 * statistics.median(taken[3:]) for name, taken in times.items()}


def through_a_file(model: nn.Module) -> tuple[int, nn.Module]:
    """Bytes of a file in which a layer has 32 values at most, and the network that is in it."""
    tensors = {
        name: share(value, bits=5) if value.ndim > 1 else value
        for name, value in model.state_dict().items()
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.fly"
        size = save(CompressedModel(tensors), path)
        loaded = copy.deepcopy(model)
        loaded.load_state_dict(decompress(path))
    return size, loaded


def networks(epochs: int, data: Cifar10, device: str, seed: int) -> dict[str, nn.Module]:
    """The three, retrained for as many epochs each but the first."""
    dense = load_pretrained("resnet20")
    whole = TrainingConfig(
        epochs=epochs, batch_size=128, learning_rate=0.02, ema_decay=0.0, distillation=0.5
    )
    before, after = (
        dataclasses.replace(whole, epochs=part) for part in (epochs // 2, epochs - epochs // 2)
    )
    filters = PruningRecipe(
        sparsity=0.5, pattern="filters", schedule="linear", layers=INNER, training=before
    )
    pruned = prune(dense, filters, data=data, device=device, seed=seed)
    smaller = remove_filters(pruned, torch.zeros(1, 3, 32, 32))
    # What is lost with the constants of dead filters comes back in the second half.
    rest = PruningRecipe(sparsity=0.0, schedule="one-shot", training=after)
    smaller = prune(smaller, rest, data=data, device=device, seed=seed + 1)
    sparsity = 1 - summary(smaller).parameters / summary(dense).parameters
    single = PruningRecipe(sparsity=sparsity, ramp=0.5, training=whole)
    return {
        "dense": dense,
        "single weights pruned": prune(dense, single, data=data, device=device, seed=seed),
        "filters removed": smaller,
    }


def rows_of(models: dict[str, nn.Module], data: Cifar10, device: str, epochs: int) -> list[Row]:
    """What each network is, and how fast."""
    target = choose_device(device)
    test = data.split("test").to(target)
    files = {name: through_a_file(model.cpu()) for name, model in models.items()}
    loaded = {name: model.to(target).eval() for name, (_, model) in files.items()}
    images = torch.randn(max(BATCHES), 3, 32, 32, device=target)
    taken = {size: milliseconds(loaded, images[:size], 30) for size in BATCHES}
    counted = {name: summary(model) for name, model in loaded.items()}
    return [
        {
            "network": name,
            "epochs": 0 if name == "dense" else epochs,
            "weights": counted[name].parameters,
            "nonzeros": counted[name].nonzeros,
            "file_bytes": files[name][0],
            "accuracy": accuracy(model, test),
            **{f"ms_batch_{size}": f"{taken[size][name]:.2f}" for size in BATCHES},
            **where(target),
        }
        for name, model in loaded.items()
    ]


def table(rows: Sequence[Row]) -> str:
    """Markdown of the rows."""
    columns = [":network", "weights", "non-zero", "file, bytes", "accuracy"]
    columns += [f"ms, {size} at once" for size in BATCHES] + ["epochs"]
    cells = [
        (
            row["network"],
            f"{int(row['weights']):,}",
            f"{int(row['nonzeros']):,}",
            f"{int(row['file_bytes']):,}",
            f"{100 * float(row['accuracy']):.2f} %",
            *(row[f"ms_batch_{size}"] for size in BATCHES),
            row["epochs"],
        )
        for row in rows
    ]
    return f"{rows[0]['device']}, {rows[0]['commit']}.\n\n{markdown(columns, cells)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Prune, remove, test, time; write both tables."""
    options = read_options(
        lab_parser("Filters removed against weights pruned.", epochs=4), arguments
    )
    data = load_cifar10(options.data)
    models = networks(options.epochs, data, options.device, options.seed)
    rows = rows_of(models, data, options.device, options.epochs)
    print(table(rows), flush=True)
    write_rows("structured", rows, RESULTS)
    put_table("labs.structured", table(rows), DOCUMENT)


if __name__ == "__main__":
    main()
