"""Training towards zeros: L1 in the loss, L1 by proximal steps, and group lasso on filters.

    python -m labs.proximal [RUN ...] [--epochs 3] [--strength 3e-4] [--interval 39] [--live]

Trains the shipped ResNet-20 on with the 45,000 training images of CIFAR-10, once for each run: "L1
in the loss" adds λ·sign(w) to the gradients that SGD gets, "L1, proximal" makes a soft threshold
after each step, "group lasso, proximal" one of whole filters. All else is the same, and so is the
objective of the first two. Zeros are counted; then each network goes through `compress`, `save` and
`load` like any other, without pruning or retraining, and what was loaded is tested on the 10,000
test images. Batch normalization keeps its statistics; with ``--live`` it measures each batch, which
takes the scale of the weights out again. A run of the same settings that is there is not made
again; one that was interrupted goes on from its last epoch; rows of other strengths stay. Writes
``labs/results/proximal.csv``, the figure beside it and the table in ``docs/proximal.md``.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from benchmarks.report import Row, markdown, put_table, read_rows, write_rows
from flyweight.cifar import Cifar10, accuracy, load_cifar10
from flyweight.cli.progress import display
from flyweight.io import load, save
from flyweight.modules import select_weights
from flyweight.proximal import (
    Penalty,
    ProximalSteps,
    attach_proximal_,
    group_soft_threshold,
)
from flyweight.pruning import summarize_sparsity
from flyweight.quantization import QuantizationConfig
from flyweight.report import (
    LINES,
    figure_grid,
    in_style,
    label_axes,
    save_figure,
)
from flyweight.training import (
    TrainingConfig,
    choose_device,
    prefixed,
    train_,
)
from labs.dense import load_pretrained, pretrained_card
from labs.options import lab_parser, read_options
from labs.rows import RESULTS, is_begun, origin, states
from labs.stages import BATCH_SIZE, quantize, training_images

CURVES = "proximal_sizes"
DOCUMENT = Path(__file__).parents[1] / "docs" / "proximal.md"

Attach = Callable[[torch.optim.Optimizer], object]
AS_IT_IS = QuantizationConfig(bits=5, init="density")


def l1_in_the_loss(model: nn.Module, strength: float, optimizer: torch.optim.Optimizer) -> None:
    """Add what λ·‖w‖₁ in the loss adds to the gradients, before each step of the optimizer."""
    weights = select_weights(model).values()

    def add(*_: Any) -> None:
        for weight in weights:
            if weight.grad is not None:
                weight.grad.add_(weight.detach().sign(), alpha=strength)

    optimizer.register_step_pre_hook(add)


def attachments(model: nn.Module, strength: float, interval: int = 1) -> dict[str, Attach]:
    """The runs, each with what it does to the optimizer."""
    single = Penalty(strength, interval=interval)
    group = Penalty(
        strength, operator=group_soft_threshold, layer_types=("Conv2d",), interval=interval
    )
    return {
        "L1 in the loss": partial(l1_in_the_loss, model, strength),
        "L1, proximal": partial(attach_proximal_, model=model, penalty=single),
        "group lasso, proximal": partial(attach_proximal_, model=model, penalty=group),
    }


RUNS = tuple(attachments(nn.Module(), 0.0))


def train(
    name: str,
    settings: Mapping[str, Any],
    config: TrainingConfig,
    data: Cifar10,
    device: str,
    seed: int,
    batch_size: int,
) -> nn.Module:
    """The shipped network, trained on by one of the runs."""
    attached = []

    def attach(optimizer: torch.optim.Optimizer) -> None:
        runs = attachments(model, settings["strength"], settings["interval"])
        attached.append(runs[name](optimizer))

    model = load_pretrained("resnet20").to(choose_device(device))
    with states("proximal", name) as folder, display(quiet=False) as progress:
        train_(
            model,
            training_images(data, device, batch_size=batch_size),
            config,
            attach=attach,
            device=device,
            seed=seed,
            checkpoint=folder / f"{settings['strength']:g} {settings['interval']}.pt",
            progress=prefixed(progress, name),
        )
    for steps in attached:
        if isinstance(steps, ProximalSteps):
            steps.apply_()
    return model.cpu().eval()


def row_of(name: str, model: nn.Module, data: Cifar10, device: str) -> Row:
    """What there is of zeros, and what a file of it holds."""
    counted = summarize_sparsity(model)
    convolutions = [layer for layer in counted.layers if layer.type == "Conv2d"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.fly"
        untrained = TrainingConfig(epochs=0)
        compressed = quantize(model, AS_IT_IS, untrained, data=data, device=device, seed=1)
        size = save(compressed, path)
        loaded = load(path, architecture="resnet20")
    target = choose_device(device)
    return {
        "run": name,
        "weights": counted.parameters,
        "zeros": counted.parameters - counted.nonzeros,
        "filters": sum(layer.filters for layer in convolutions),
        "zero_filters": sum(layer.zero_filters for layer in convolutions),
        "zeros_in_file": counted.parameters - summarize_sparsity(loaded).nonzeros,
        "file_bytes": size,
        "accuracy": accuracy(model.to(target), data.split("test").to(target)),
        "accuracy_of_file": accuracy(loaded.to(target), data.split("test").to(target)),
    }


def distributions(model: nn.Module) -> dict[str, np.ndarray[Any, Any]]:
    """Magnitudes of all weights, and root mean squares of all filters of convolutions, ascending.

    Of many, 400 evenly spaced ones, so that they can be kept beside the rows.
    """
    weights = select_weights(model)
    sizes = torch.cat([weight.detach().abs().flatten() for weight in weights.values()])
    filters = torch.cat(
        [w.detach().flatten(1).square().mean(1).sqrt() for w in weights.values() if w.ndim == 4]
    )
    places = np.linspace(0, 1, 400)
    return {
        kind: np.quantile(values.double().cpu().numpy(), places, method="lower")
        for kind, values in (("weights", sizes), ("filters", filters))
    }


@in_style
def draw(found: Mapping[str, Mapping[str, np.ndarray[Any, Any]]]) -> Figure:
    """The share of weights, and of filters, below each size; zeros stand at the left edge."""
    figure, axes = figure_grid(1, 2, height=3.2)
    for each, kind in zip(axes, ("weights", "filters"), strict=True):
        least = min(values[kind][values[kind] > 0].min(initial=1.0) for values in found.values())
        edge = max(least / 3, 1e-9)
        for line, (name, values) in zip(LINES, found.items(), strict=False):
            sizes = values[kind].clip(min=edge)
            share = np.linspace(0, 100, len(sizes))
            each.plot(sizes, share, label=name, markevery=0.1, **line)
        each.set_xscale("log")
        each.set_xlim(left=edge)
        each.set_ylim(0, 100)
    sized = "magnitude of a weight, log scale (left edge: exactly 0)"
    label_axes(axes[0], "Weights", sized, "weights not above it, %")
    sized = "root mean square of a filter, log (left edge: exactly 0)"
    label_axes(axes[1], "Filters of convolutions", sized, "filters not above it, %")
    axes[0].legend()
    return figure


def table(rows: Sequence[Row]) -> str:
    """Markdown of the rows."""
    dense = 100 * pretrained_card("resnet20")["test_accuracy"]
    columns = [
        ":run",
        ":batch normalization",
        "λ",
        "interval",
        "rate",
        "epochs",
        "zeros",
        "sparsity",
    ]
    columns += ["zero filters", "zeros in the file", "file, bytes", "accuracy trained"]
    columns += ["accuracy of the file", ":origin"]
    cells = [
        (
            row["run"],
            row["batch_norm"],
            row["strength"],
            row["interval"],
            row["learning_rate"],
            row["epochs"],
            f"{int(row['zeros']):,}",
            f"{100 * int(row['zeros']) / int(row['weights']):.2f} %",
            f"{row['zero_filters']} of {row['filters']}",
            f"{int(row['zeros_in_file']):,}",
            f"{int(row['file_bytes']):,}",
            f"{100 * float(row['accuracy']):.2f} %",
            f"{100 * float(row['accuracy_of_file']):.2f} %",
            f"seed {row['seed']}, {row['device']}, {row['commit']}",
        )
        for row in rows
    ]
    return (
        f"The dense network of the labs has {dense:.2f} %.\n\n{markdown(columns, cells)}\n\n"
        "![Sizes of weights and filters](../labs/results/proximal.svg)"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the runs that are missing, then draw and write the table."""
    parser = lab_parser("Training towards zeros.", epochs=3)
    parser.add_argument("runs", nargs="*")
    parser.add_argument("--strength", type=float, default=3e-4, help="λ of all runs")
    parser.add_argument("--interval", type=int, default=39, help="steps to one proximal step")
    parser.add_argument("--live", action="store_true", help="normalize by the batch")
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE)
    options = read_options(parser, arguments)
    if unknown := [name for name in options.runs if name not in RUNS]:
        parser.error(f"no run is called {', '.join(unknown)}; there are {', '.join(RUNS)}")
    data = load_cifar10(options.data)
    config = TrainingConfig(
        epochs=options.epochs,
        learning_rate=0.01,
        freeze_batch_norm=not options.live,
    )
    all_settings = {
        "batch_norm": "live" if options.live else "frozen",
        "strength": options.strength,
        "interval": options.interval,
        "epochs": options.epochs,
        "learning_rate": config.learning_rate,
        "seed": options.seed,
    }
    for name in options.runs or RUNS:
        settings = settings_of(name, all_settings)
        rows = read_rows("proximal", RESULTS)
        there = [row for row in rows if same(row, name, settings)]
        if there and all(there[0][key] == str(settings[key]) for key in settings):
            continue
        begin, begun = time.perf_counter(), is_begun("proximal", name)
        model = train(
            name, settings, config, data, options.device, options.seed, options.batch_size
        )
        made = {
            **row_of(name, model, data, options.device),
            **settings,
            **origin(options.seed, choose_device(options.device), begin, whole=not begun),
        }
        print(made, flush=True)
        found = distributions(model)
        keep(
            CURVES,
            [
                {"run": name, **settings, "weights": f"{w:.4g}", "filters": f"{f:.4g}"}
                for w, f in zip(found["weights"], found["filters"], strict=True)
            ],
        )
        keep("proximal", [made])
    write_up(all_settings)


def settings_of(name: str, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of a run: a penalty in the loss is there at every step."""
    return {**settings, "interval": 1} if name == RUNS[0] else settings


def same(row: Row, name: str, settings: Mapping[str, Any]) -> bool:
    """Whether a row is of this run, at this strength and with batch normalization so."""
    alike = all(float(row[key]) == float(settings[key]) for key in ("strength", "interval"))
    return alike and row["run"] == name and row["batch_norm"] == settings["batch_norm"]


def keep(table: str, rows: Sequence[Row]) -> None:
    """Put the rows of one run in place of those that it had, in the order of the table."""
    others = [row for row in read_rows(table, RESULTS) if not same(row, rows[0]["run"], rows[0])]
    ordered = sorted(
        [*others, *rows],
        key=lambda row: (row["batch_norm"], float(row["strength"]), RUNS.index(row["run"])),
    )
    write_rows(table, ordered, RESULTS)


def write_up(settings: Mapping[str, Any]) -> None:
    """The table of all rows, and the figure of those of these settings."""
    sizes = [
        row
        for row in read_rows(CURVES, RESULTS)
        if same(row, row["run"], settings_of(row["run"], settings))
    ]
    kept = {
        run: {
            kind: np.array([float(row[kind]) for row in sizes if row["run"] == run])
            for kind in ("weights", "filters")
        }
        for run in RUNS
        if any(row["run"] == run for row in sizes)
    }
    if kept:
        figure = draw(kept)
        for form in ("svg", "png"):
            save_figure(figure, RESULTS / f"proximal.{form}")
    put_table("labs.proximal", table(read_rows("proximal", RESULTS)), DOCUMENT)


if __name__ == "__main__":
    main()
