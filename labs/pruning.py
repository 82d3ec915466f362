"""The tables of pruning: by standard deviation, by percentage, and four ways to 80 %.

    python -m labs.pruning [ROW ...] [--epochs 20] [--short 2] [--compile]
        [--device auto] [--data DIR]

Prunes the shipped ResNet-20, retrains it on the 45,000 training images of CIFAR-10 and tests it on
all 10,000 test images, before retraining and after. ROW is std, percentage or ways (all of them if
none is named), or a row of one such as "std 1.0". Key rows are retrained for ``--epochs``, the
others for ``--short``. A row that is there already, of as many epochs or more, is not made again;
one that was interrupted goes on from its last epoch. Writes ``labs/results/pruning.csv``, the zeros
of each layer under one threshold ``labs/results/pruning_layers.csv``, and the tables in
``docs/pruning.md``. Nothing is chosen on the test images.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from benchmarks.report import Row, markdown, put_table, read_rows, write_rows
from flyweight._provenance import source_commit
from flyweight.cifar import Cifar10, accuracy, load_cifar10
from flyweight.cli.progress import display
from flyweight.compressed import CompressedModel
from flyweight.format import read
from flyweight.io import save
from flyweight.modules import add_network_, apply_masks_, select_weights
from flyweight.pruning import PruningConfig, percentile_mask, std_mask, summarize_sparsity
from flyweight.training import TrainingConfig, choose_device
from labs.dense import load_pretrained, pretrained_card
from labs.options import lab_parser, read_options
from labs.rows import RESULTS, STATES, fill, is_begun, origin, states, wanted, where
from labs.stages import prune
from labs.teacher import dense_teacher

DOCUMENT = Path(__file__).parents[1] / "docs" / "pruning.md"
LAYERS = "pruning_layers"
NETWORKS = Path(__file__).parent / "networks"

RETRAINING = TrainingConfig(epochs=20, learning_rate=0.02, distillation=0.5)
KEY = ("std 1.0", "percentage 75", "ways one-shot", "ways iterative")
# As long at its final sparsity as the iterative ways are.
HALF = "ways one-shot, half as long"
ONE_THRESHOLD = ("ways global iterative", "ways global with recovery")
KEY += ONE_THRESHOLD


@dataclasses.dataclass(frozen=True)
class Exercise:
    """A row: what is pruned before, and how it goes on from there."""

    name: str
    config: PruningConfig
    training: TrainingConfig
    deviations: float | None = None
    percentile: float | None = None

    def epochs(self, full: int, short: int) -> int:
        """How long it is retrained."""
        if self.name == HALF:
            return full // 2
        return full if self.name in KEY else short

    def start(self) -> nn.Module:
        """The shipped network, pruned by standard deviation or percentile if so asked."""
        model = load_pretrained("resnet20")
        weights = select_weights(model)
        if self.deviations is not None:
            apply_masks_(weights, {n: std_mask(w, self.deviations) for n, w in weights.items()})
        if self.percentile is not None:
            masks = {n: percentile_mask(w, self.percentile) for n, w in weights.items()}
            apply_masks_(weights, masks)
        return model


def exercises(compiled: bool = False) -> list[Exercise]:
    """All rows, in the order of the tables, to be retrained by compiled code or not."""
    retraining = dataclasses.replace(RETRAINING, compile=compiled)
    once = PruningConfig(schedule="one-shot", scope="layer", allow_regrowth=False, sparsity=0.0)
    rows = [Exercise(f"std {s}", once, retraining, s) for s in (0.0, 0.25, 0.5, 1.0)]
    rows += [
        Exercise(f"percentage {q}", once, retraining, percentile=q)
        for q in (0, 20, 25, 40, 50, 60, 70, 75, 80)
    ]
    at_80 = dataclasses.replace(once, sparsity=0.8)
    # As the course has it: 8 % more before each of ten epochs, then as many with the mask fixed.
    grown = dataclasses.replace(
        at_80, schedule="linear", ramp=0.5, interval=1, unit="epochs", allow_regrowth=True
    )
    rows += [
        Exercise("ways one-shot", at_80, retraining),
        Exercise(HALF, at_80, retraining),
        Exercise("ways iterative", grown, retraining),
        Exercise("ways global iterative", dataclasses.replace(grown, scope="global"), retraining),
        Exercise("ways global with recovery", PruningConfig(sparsity=0.8, ramp=0.5), retraining),
    ]
    return rows


def kept_at(exercise: Exercise, epochs: int, device: str, seed: int) -> Path:
    """Where the network is kept after retraining: with the labs, or else beside their states.

    By the row, its epochs and seed, the device and both networks, for what goes on from there.
    """
    settings = f"{exercise.name} {epochs} {seed} {choose_device(device)}"
    digest = hashlib.sha256(settings.encode())
    add_network_(digest, exercise.start())
    add_network_(digest, dense_teacher())
    name = f"{digest.hexdigest()[:16]}.fly"
    return NETWORKS / name if (NETWORKS / name).exists() else STATES / "pruned" / name


def retrained(
    exercise: Exercise, epochs: int, data: Cifar10, device: str, seed: int
) -> tuple[nn.Module, str]:
    """The network after retraining, and the commit at which that was done.

    Where it is kept already it is not trained again. Raises FormatError where what is kept is
    damaged.
    """
    model, path = exercise.start(), kept_at(exercise, epochs, device, seed)
    if path.exists():
        kept = CompressedModel.from_container(read(path))
        model.load_state_dict(kept.state_dict())
        return model, kept.metadata["commit"]
    training = dataclasses.replace(exercise.training, epochs=epochs)
    with states("pruning", exercise.name) as folder, display(quiet=False) as progress:
        model = prune(
            model,
            exercise.config,
            training,
            data=data,
            device=device,
            seed=seed,
            states=folder / path.stem,
            progress=progress,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        told = {"row": exercise.name, "epochs": str(epochs), "commit": source_commit()}
        save(CompressedModel(dict(model.state_dict()), metadata=told), path)
    return model, source_commit()


def run(exercise: Exercise, epochs: int, data: Cifar10, device: str, seed: int) -> Row:
    """Prune, test, retrain, test again."""
    target = choose_device(device)
    test = data.split("test").to(target)
    begin = time.perf_counter()
    no_training = dataclasses.replace(exercise.training, epochs=0)
    pruned = prune(exercise.start(), exercise.config, no_training, data=data, device=device)
    row: dict[str, Any] = {
        "row": exercise.name,
        "epochs": epochs,
        "sparsity": summarize_sparsity(pruned).sparsity,
        "dense": pretrained_card("resnet20")["test_accuracy"],
        "pruned": accuracy(pruned.to(target), test),
        "retrained": "",
    }
    if not epochs:
        return row | origin(seed, target, begin)
    begun = is_begun("pruning", exercise.name)
    begun = begun or kept_at(exercise, epochs, device, seed).exists()
    network, commit = retrained(exercise, epochs, data, device, seed)
    reached = summarize_sparsity(network).sparsity
    if abs(reached - row["sparsity"]) > 1e-3:
        raise AssertionError(f"{exercise.name}: {reached} of the weights are zero afterwards")
    row["retrained"] = accuracy(network.to(target), test)
    if exercise.name in ONE_THRESHOLD:
        told = {"accuracy": row["retrained"], "epochs": epochs, "seed": seed}
        put_layers(exercise.name, network, told | where(target) | {"commit": commit})
    return row | origin(seed, target, begin, whole=not begun) | {"commit": commit}


def put_layers(name: str, network: nn.Module, told: Row) -> None:
    """Write how many weights of each layer are zero; an older row of the name goes."""
    others = [row for row in read_rows(LAYERS, RESULTS) if row["row"] != name]
    found = [
        {
            "row": name,
            "layer": layer.name,
            "weights": layer.parameters,
            "zeros": layer.parameters - layer.nonzeros,
            **told,
        }
        for layer in summarize_sparsity(network).layers
    ]
    write_rows(LAYERS, [*others, *found], RESULTS)


def kept_layers(exercise: Exercise, epochs: int, data: Cifar10, device: str, seed: int) -> None:
    """Write the zeros of each layer of a network that is kept, where they are not written."""
    there = {row["row"] for row in read_rows(LAYERS, RESULTS)}
    wants = epochs and exercise.name in ONE_THRESHOLD and exercise.name not in there
    if wants and kept_at(exercise, epochs, device, seed).exists():
        network, commit = retrained(exercise, epochs, data, device, seed)
        target = choose_device(device)
        right = accuracy(network.to(target), data.split("test").to(target))
        told = where(target) | {"commit": commit}
        put_layers(
            exercise.name, network, {"accuracy": right, "epochs": epochs, "seed": seed} | told
        )
        put_table("labs.pruning", tables(read_rows("pruning", RESULTS)), DOCUMENT)


def layer_table(rows: Sequence[Row]) -> str:
    """Markdown of the zeros of each layer, a column for each way."""
    found = {(row["row"], row["layer"]): row for row in rows}
    ways = [name for name in ONE_THRESHOLD if any(row == name for row, _ in found)]
    cells = []
    for layer in dict.fromkeys(layer for _, layer in found):
        of = [found[way, layer] for way in ways]
        zeros = [f"{100 * int(row['zeros']) / int(row['weights']):.1f} %" for row in of]
        cells.append([f"`{layer}`", f"{int(of[0]['weights']):,}", *zeros])
    columns = [":layer", "weights", *(way.removeprefix("ways ") for way in ways)]
    texts = []
    for way in ways:
        row = next(row for row in rows if row["row"] == way)
        origins = f"seed {row['seed']}, {row['device']}, {row['commit']}"
        name, right = way.removeprefix("ways "), 100 * float(row["accuracy"])
        texts.append(f"{name}: {right:.2f} % after {row['epochs']} epochs, {origins}")
    title = "### Zeros of each layer under one threshold"
    return f"{title}\n\n{markdown(columns, cells)}\n\n{'; '.join(texts)}."


def tables(rows: Sequence[Row]) -> str:
    """Markdown of all rows, a table for each exercise."""
    texts = []
    by_name = {row["row"]: row for row in rows}
    titles = {
        "std": ("By standard deviation, per layer", ":s"),
        "percentage": ("By percentage, per layer", ":q, %"),
        "ways": ("Four ways to 80 %", ":way"),
    }
    for kind, (title, first) in titles.items():
        cells = []
        for exercise in exercises():
            row = by_name.get(exercise.name)
            if row is None or not exercise.name.startswith(kind):
                continue
            retrained = f"{100 * float(row['retrained']):.2f} %" if row["retrained"] else ""
            cells.append(
                [
                    exercise.name.removeprefix(kind).strip(),
                    f"{100 * float(row['sparsity']):.2f} %",
                    f"{100 * float(row['pruned']):.2f} %",
                    retrained,
                    row["epochs"],
                    f"seed {row['seed']}, {row['device']}, {row['commit']}",
                ]
            )
        if cells:
            columns = [first, "sparsity", "accuracy pruned", "retrained", "epochs", ":origin"]
            texts.append(f"### {title}\n\n{markdown(columns, cells)}")
    if layers := read_rows(LAYERS, RESULTS):
        texts.append(layer_table(layers))
    return "\n\n".join(texts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the rows that are missing, then rewrite the tables."""
    options = read_options(
        lab_parser("The tables of pruning.", rows=True, epochs=20, short=2), arguments
    )
    chosen = wanted(options.rows, exercises(options.compile))
    data = load_cifar10(options.data)
    asked = [(row, row.epochs(options.epochs, options.short)) for row in chosen]
    for exercise, epochs in asked:
        kept_layers(exercise, epochs, data, options.device, options.seed)
    fill(
        "pruning",
        asked,
        exercises(),
        make=lambda exercise, epochs: run(exercise, epochs, data, options.device, options.seed),
        tables=tables,
        document=DOCUMENT,
    )


if __name__ == "__main__":
    main()
