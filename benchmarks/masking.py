"""What masks cost while a network trains: seconds a step against dense training.

    python -m benchmarks.masking [--device auto] [--repeats 9] [--steps 20]

ResNet-20 on CIFAR-10, batches of 128, plain SGD with momentum: without masks, with masks at 80 %,
and with masks that are chosen anew every 20 steps under one threshold, with recovery: once in each
run. Repeats alternate, after a warm-up of each; the median counts. Writes
``benchmarks/results/masking.csv`` and the table in ``docs/benchmarks.md``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.report import Row, markdown, origin, put_table, told, write_rows
from flyweight.cifar import create_model, load_cifar10, normalize
from flyweight.pruning import Pruner, PruningConfig
from flyweight.training import (
    choose_device,
    describe_device,
    keep_freed_memory,
    memory_format_for,
)

BATCH_SIZE = 128
EVERY = 20


def loop(
    model: nn.Module, after: Callable[[], None], device: torch.device
) -> Callable[[int], None]:
    """What makes some steps with a network."""
    model.to(device=device, memory_format=memory_format_for(model))  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
    data = load_cifar10().split("train50k")
    images = normalize(data.images[:BATCH_SIZE].to(device))
    images = images.contiguous(memory_format=torch.channels_last)
    labels = data.labels[:BATCH_SIZE].to(device)

    def run(steps: int) -> None:
        model.train()
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            after()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return run


def masked(config: PruningConfig, device: torch.device) -> Callable[[int], None]:
    """The same with masks; no run is as long as their schedule."""
    pruner = Pruner(create_model("resnet20"), config, steps=10**6)
    return loop(pruner.model, pruner.step, device)


def rows_of(timings: dict[str, list[float]], device: torch.device) -> list[Row]:
    """What was measured, the dense loop first."""
    reference = statistics.median(next(iter(timings.values())))
    return [
        origin()
        | {
            "device": describe_device(device),
            "loop": name,
            "step_ms_median": f"{1000 * statistics.median(seconds):.1f}",
            "step_ms_min": f"{1000 * min(seconds):.1f}",
            "over_dense_percent": f"{100 * (statistics.median(seconds) / reference - 1):.1f}",
            "repeats": len(seconds),
        }
        for name, seconds in timings.items()
    ]


def table(rows: Sequence[Row]) -> str:
    """Markdown of the rows."""
    columns = [":loop", "a step, ms", "fastest, ms", "over dense"]
    cells = [
        (r["loop"], r["step_ms_median"], r["step_ms_min"], f"{r['over_dense_percent']} %")
        for r in rows
    ]
    first = rows[0]
    where = told(first)
    if not first["device"].startswith(first["cpu"]):
        where = f"{first['device']}; {where}"
    head = f"{where}; medians of {first['repeats']} runs."
    return f"{head}\n\n{markdown(columns, cells)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write both tables."""
    parser = argparse.ArgumentParser(description="What masks cost while a network trains.")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--steps", type=int, default=EVERY, help="of one timed run")
    options = parser.parse_args(arguments)
    keep_freed_memory()
    device = choose_device(options.device)
    once = PruningConfig(sparsity=0.8, schedule="one-shot", allow_regrowth=False)
    grown = PruningConfig(sparsity=0.8, ramp=1.0, interval=EVERY)
    loops = {
        "dense": loop(create_model("resnet20"), lambda: None, device),
        "masks": masked(once, device),
        f"masks, chosen every {EVERY} steps": masked(grown, device),
    }
    timings: dict[str, list[float]] = {name: [] for name in loops}
    for run in loops.values():
        run(options.steps)
    for _ in range(options.repeats):
        for name, run in loops.items():
            begin = time.perf_counter()
            run(options.steps)
            timings[name].append((time.perf_counter() - begin) / options.steps)
    rows = rows_of(timings, device)
    print(table(rows), flush=True)
    write_rows("masking", rows)
    put_table("masking", table(rows))


if __name__ == "__main__":
    main()
