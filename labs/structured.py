"""Zeros that save time and zeros that do not: filters removed against weights pruned.

    python -m labs.structured [--epochs 4] [--device auto] [--data DIR]

The dense ResNet-20 four times: dense; with half of the filters of the first convolution of each
block cut out, once those of the least norm after sparsity grew while the network retrained, and
once after a group lasso drove filters to zero, the rest by norm; and with as many single weights
pruned as the removed filters had. Each is retrained for as many epochs, those that lost filters for
half of them after the cut, with the dense network as teacher but for the group lasso. All are
tested on the 10,000 test images of CIFAR-10 and timed, one image and 128 at once; a pruned network
is an ordinary dense one to the machine. All of this is of networks loaded from files that hold 32
values a layer, which were not trained. A run that was interrupted goes on from its last epoch.
Writes ``labs/results/structured.csv`` and the table in ``docs/pruning.md``. λ is fixed beforehand;
nothing is chosen on the test images.
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
from flyweight.cifar import Cifar10, accuracy, load_cifar10
from flyweight.cli.progress import display
from flyweight.compressed import CompressedModel
from flyweight.io import load_state_dict, save
from flyweight.modules import select_weights
from flyweight.proximal import Penalty, attach_proximal_, group_soft_threshold
from flyweight.pruning import PruningConfig, summarize_sparsity, zero_filters
from flyweight.quantization import quantize_kmeans
from flyweight.structured import remove_filters
from flyweight.training import (
    TrainingConfig,
    choose_device,
    prefixed,
    train_,
)
from labs.dense import load_pretrained
from labs.options import lab_parser, read_options
from labs.rows import RESULTS, states, where
from labs.stages import prune, training_images

DOCUMENT = Path(__file__).parents[1] / "docs" / "pruning.md"
INNER = ("stages.*.conv1.weight",)
BATCHES = (1, 128)
STRENGTH = 2e-3  # λ of the group lasso
SINGLE, BY_NORM = "single weights pruned", "filters removed by norm"
BY_LASSO = "filters removed after group lasso"


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
        name: quantize_kmeans(value, bits=5) if value.ndim > 1 else value
        for name, value in model.state_dict().items()
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.fly"
        size = save(CompressedModel(tensors), path)
        loaded = copy.deepcopy(model)
        loaded.load_state_dict(load_state_dict(path))
    return size, loaded


def by_group_lasso(
    model: nn.Module, config: TrainingConfig, data: Cifar10, device: str, seed: int, folder: Path
) -> nn.Module:
    """A copy, trained on under a group lasso on the filters that may go."""
    penalty = Penalty(STRENGTH, operator=group_soft_threshold, include=INNER)
    driven = copy.deepcopy(model).to(choose_device(device))
    with display(quiet=False) as progress:
        train_(
            driven,
            training_images(data, device),
            dataclasses.replace(config, distillation=0.0),
            attach=lambda optimizer: attach_proximal_(optimizer, driven, penalty),
            device=device,
            seed=seed,
            checkpoint=folder / "lasso.pt",
            progress=prefixed(progress, "group lasso"),
        )
    return driven.cpu().eval()


def zeros_of(model: nn.Module) -> int:
    """Filters with no weight left, of the layers that may lose some."""
    weights = select_weights(model, include=INNER).values()
    return sum(int(zero_filters(weight).sum()) for weight in weights)


def networks(
    epochs: int, data: Cifar10, device: str, seed: int, folder: Path
) -> tuple[dict[str, nn.Module], dict[str, int]]:
    """The four, retrained for as many epochs each but the first, and zero filters before the cut.

    States of training are kept in the folder.
    """
    dense = load_pretrained("resnet20")
    whole = TrainingConfig(epochs=epochs, learning_rate=0.02, distillation=0.5)
    before, after = (
        dataclasses.replace(whole, epochs=part) for part in (epochs // 2, epochs - epochs // 2)
    )
    none = dataclasses.replace(whole, epochs=0)

    def go_on(
        model: nn.Module, config: PruningConfig, training: TrainingConfig, seed: int, what: str
    ) -> nn.Module:
        with display(quiet=False) as progress:
            return prune(
                model,
                config,
                training,
                data=data,
                device=device,
                seed=seed,
                states=folder / what,
                progress=prefixed(progress, what),
            )

    half = PruningConfig(sparsity=0.5, pattern="filters", schedule="linear", include=INNER)
    at_once = dataclasses.replace(half, schedule="one-shot")
    driven = by_group_lasso(dense, before, data, device, seed, folder)
    zeros = {"dense": zeros_of(dense), BY_LASSO: zeros_of(driven)}
    pruned = {
        BY_NORM: go_on(dense, half, before, seed, "norms"),
        BY_LASSO: go_on(driven, at_once, none, seed, "norms after group lasso"),
    }
    zeros[BY_NORM] = zeros_of(pruned[BY_NORM])
    # What is lost with the constants of dead filters comes back in the second half.
    rest = PruningConfig(sparsity=0.0, schedule="one-shot")
    smaller = {
        name: go_on(remove_filters(model, torch.zeros(1, 3, 32, 32)), rest, after, seed + 1, name)
        for name, model in pruned.items()
    }
    counts = [summarize_sparsity(model).parameters for model in (smaller[BY_NORM], dense)]
    single = PruningConfig(sparsity=1 - counts[0] / counts[1], ramp=0.5)
    found = {"dense": dense, SINGLE: go_on(dense, single, whole, seed, SINGLE), **smaller}
    return found, zeros


def rows_of(
    models: Mapping[str, nn.Module],
    zeros: Mapping[str, int],
    data: Cifar10,
    device: str,
    epochs: int,
) -> list[Row]:
    """What each network is, and how fast."""
    target = choose_device(device)
    test = data.split("test").to(target)
    files = {name: through_a_file(model.cpu()) for name, model in models.items()}
    order = torch.channels_last  # of all of them, since it tells in the time
    loaded = {n: m.to(target, memory_format=order).eval() for n, (_, m) in files.items()}
    images = torch.randn(max(BATCHES), 3, 32, 32, device=target).to(memory_format=order)
    taken = {size: milliseconds(loaded, images[:size], 30) for size in BATCHES}
    counted = {name: summarize_sparsity(model) for name, model in loaded.items()}
    return [
        {
            "network": name,
            "epochs": 0 if name == "dense" else epochs,
            "weights": counted[name].parameters,
            "nonzeros": counted[name].nonzeros,
            "zero_filters_before": zeros.get(name, ""),
            "file_bytes": files[name][0],
            "accuracy": accuracy(model, test),
            **{f"ms_batch_{size}": f"{taken[size][name]:.2f}" for size in BATCHES},
            **where(target),
        }
        for name, model in loaded.items()
    ]


def table(rows: Sequence[Row]) -> str:
    """Markdown of the rows."""
    columns = [":network", "weights", "non-zero", "zero filters before the cut"]
    columns += ["file, bytes", "accuracy"]
    columns += [f"ms, {size} at once" for size in BATCHES] + ["epochs"]
    cells = [
        (
            row["network"],
            f"{int(row['weights']):,}",
            f"{int(row['nonzeros']):,}",
            row["zero_filters_before"],
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
    with states("structured", f"{options.epochs} {options.seed}") as folder:
        models, zeros = networks(options.epochs, data, options.device, options.seed, folder)
        rows = rows_of(models, zeros, data, options.device, options.epochs)
        print(table(rows), flush=True)
        write_rows("structured", rows, RESULTS)
        put_table("labs.structured", table(rows), DOCUMENT)


if __name__ == "__main__":
    main()
