"""Training towards a size on other models: a 1-D convolution network and a small transformer.

    python -m labs.other_models [MODEL ...] [--epochs N] [--seed 0]

Both have about 100,000 parameters and learn from synthetic data within a minute: waveforms of six
forms in noise, and which of two tokens stands first in a sequence. Each is quantized without
training (recipe ``post-training``); then the recipe ``quick`` trains it towards a third of those
bytes, with the epochs and the rate of the optimizer that the model needs. Scores are of 2,048
examples that decide nothing. Writes ``labs/results/other_models.csv`` and the table in
``docs/frontier.md``.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.report import Row, markdown, put_table, read_rows, write_rows
from flyweight import compress, load_recipe, train
from flyweight.training import TrainingConfig, choose_device
from labs.options import lab_parser, read_options
from labs.rows import RESULTS, origin

DOCUMENT = Path(__file__).parents[1] / "docs" / "frontier.md"
TRAINED, TESTED, BATCH_SIZE = 8192, 2048, 64


def waves(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Six forms of waves of random pitch and phase, with noise: N×1×256, and which form."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.randint(6, (count,), generator=generator)
    pitch = 2 + 8 * torch.rand(count, 1, generator=generator)
    phase = torch.rand(count, 1, generator=generator)
    turn = (torch.linspace(0, 1, 256) * pitch + phase) % 1
    sine = (2 * torch.pi * turn).sin()
    both = sine + (4 * torch.pi * turn).sin()
    forms = [sine, sine.sign(), 2 * turn - 1, 1 - 2 * turn, 4 * (turn - 0.5).abs() - 1, both]
    signal = torch.stack(forms)[kind, torch.arange(count)]
    noisy = signal + 0.8 * torch.randn(count, 256, generator=generator)
    return noisy.unsqueeze(1), kind


def orders(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Sequences of 24 tokens, and whether token 0 stands before token 1."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, 32, (count, 24), generator=generator)
    places = torch.rand(count, 24, generator=generator).argsort(1)[:, :2]
    ids.scatter_(1, places, torch.tensor([[0, 1]]).expand(count, 2))
    return ids, (places[:, 0] < places[:, 1]).long()


def convolutions() -> nn.Module:
    """A 1-D network of the size of those for keyword spotting."""
    widths = (1, 32, 64, 96, 128)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Conv1d(before, after, 7, stride=2), nn.BatchNorm1d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(128, 6))


class Transformer(nn.Module):
    """Two encoder layers over tokens and places, and the mean of their outputs classified."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(32, 64), nn.Embedding(24, 64)
        layer = nn.TransformerEncoderLayer(64, 4, 256, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(64, 2)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits N×2 of tokens N×24."""
        places = self.places(torch.arange(ids.shape[1], device=ids.device))
        found: Tensor = self.head(self.encoder(self.tokens(ids) + places).mean(1))
        return found


class Model(NamedTuple):
    """A model, its data, and how it trains.

    Attributes:
        make: builds it with random weights.
        examples: ``examples(count, seed)`` gives inputs and targets.
        dense: how it is trained before.
        fine: what the fine-tuning of the recipe needs for it.
    """

    make: Callable[[], nn.Module]
    examples: Callable[[int, int], tuple[Tensor, Tensor]]
    dense: TrainingConfig
    fine: dict[str, Any]


MODELS = {
    "1-D convolutions": Model(
        convolutions,
        waves,
        TrainingConfig(epochs=10, learning_rate=0.05),
        {"epochs": 20, "learning_rate": 0.025},
    ),
    "transformer": Model(
        Transformer,
        orders,
        TrainingConfig(epochs=20, optimizer="adamw", learning_rate=1e-3, gradient_clip=1.0),
        {"epochs": 30, "learning_rate": 0.05, "gradient_clip": 1.0},
    ),
}


def batches_of(model: Model, count: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Examples in batches."""
    inputs, targets = model.examples(count, seed)
    return [*zip(inputs.split(BATCH_SIZE), targets.split(BATCH_SIZE), strict=True)]


def make(name: str, epochs: int | None, seed: int, device: str) -> list[Row]:
    """Train a model, quantize it without training, and train it towards a third of the bytes."""
    chosen, target = MODELS[name], choose_device(device)
    data, tested = batches_of(chosen, TRAINED, 0), batches_of(chosen, TESTED, 1)

    def score(model: nn.Module) -> float:
        hits = [(model(x.to(target)).argmax(1) == y.to(target)).float() for x, y in tested]
        return torch.cat(hits).mean().item()

    def few(training: TrainingConfig) -> TrainingConfig:
        return training if epochs is None else dataclasses.replace(training, epochs=epochs)

    torch.manual_seed(seed)
    dense = train(chosen.make(), data, few(chosen.dense), device=device, seed=seed)
    rows: list[Row] = []
    recipe, asked = load_recipe("post-training"), 0
    for _ in range(2):
        begin = time.perf_counter()
        given = asked or None
        found = compress(
            dense, recipe, data=data, evaluate=score, target_bytes=given, device=device, seed=seed
        )
        report = found.report
        rows.append(
            {
                "model": name,
                "recipe": recipe.name,
                "parameters": report.dense_bytes // 4,
                "epochs": recipe.epochs,
                "asked_bytes": given or "",
                "file_bytes": report.file_bytes,
                "compression_ratio": f"{report.compression_ratio:.2f}",
                "score_before": f"{report.score_before:.4f}",
                "score_after": f"{report.score_after:.4f}",
            }
            | origin(seed, target, begin)
        )
        print(rows[-1], flush=True)
        recipe = load_recipe("quick")
        fine = few(dataclasses.replace(recipe.fine_tuning, **chosen.fine))
        recipe = dataclasses.replace(recipe, fine_tuning=fine)
        asked = report.file_bytes // 3
    return rows


def table(rows: Sequence[Row]) -> str:
    """Markdown of the rows."""
    columns = [":model", "parameters", ":recipe", "epochs", "asked, bytes", "file, bytes"]
    columns += ["ratio", "score before", "after", "seed", ":device", ":commit"]
    keys = ["model", "parameters", "recipe", "epochs", "asked_bytes", "file_bytes"]
    keys += ["compression_ratio", "score_before", "score_after", "seed", "device", "commit"]
    return markdown(columns, ([row[key] for key in keys] for row in rows))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the models that are named, and rewrite the table."""
    parser = lab_parser("Training towards a size on other models.", rows=True)
    parser.add_argument("--epochs", type=int, help="of all training; default: as the model needs")
    options = read_options(parser, arguments)
    if unknown := [name for name in options.rows if name not in MODELS]:
        raise SystemExit(f"{', '.join(unknown)} is no model; known are {', '.join(MODELS)}")
    for name in options.rows or MODELS:
        made = make(name, options.epochs, options.seed, options.device)
        kept = [row for row in read_rows("other_models", RESULTS) if row["model"] != name]
        write_rows("other_models", [*kept, *made], RESULTS)
        put_table("labs.other_models", table([*kept, *made]), DOCUMENT)


if __name__ == "__main__":
    main()
