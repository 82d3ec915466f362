"""Time and squared error of one-dimensional k-means against that of others.

    python -m benchmarks.kmeans [--sets laplace gaussian resnet20] [--values 1000000]
                                [--clusters 8 16 32 256] [--repeats 5]

From float32 weights to centroids and to the cluster of every weight. Seconds are those that the
process had a CPU: what passes on a core of its own, and the same beside other work. Pin the process
to one core (``taskset -c 1``) and threads to one. The squared error is that of each weight from the
nearest centroid, summed in float64 by the same code for all. Lloyd's algorithm makes 300 rounds at
most. Repeat n draws its starts from seed n; medians are taken of seconds and of errors, so a row of
a drawn start is that of a typical seed. Repeats of all methods alternate, after one on few values
that compiles what is to be compiled. A method that would take more than 20 seconds is repeated less
often, at least once. scikit-learn's KMeans has one start by k-means++ and its usual tolerance, as
flash1dkmeans has; kmeans1d finds the optimum. Those that are not installed are left out (``make
bench`` installs them). Writes ``benchmarks/results/kmeans.csv`` and the table in
``docs/benchmarks.md``.

Sets: as many float32 values from a Laplace or a normal distribution; "resnet20": the convolution
and linear weights of the shipped network, each tensor clustered on its own, seconds and errors in
sum.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.codecs import LONGEST
from benchmarks.report import Row, markdown, origin, put_table, told, write_rows
from benchmarks.weights import weights_of
from flyweight.quantization import INITIALIZATIONS, Initialization
from flyweight.quantization.kmeans import kmeans_1d, nearest
from flyweight.training import keep_freed_memory

SETS = ("laplace", "gaussian", "resnet20")
CLUSTERS = (8, 16, 32, 256)
ROUNDS = 300

Values = NDArray[np.float32]
Method = Callable[[Values, int, int], Any]
"""The centroids of values, in any order, for a number of clusters and a seed."""


class Measured(NamedTuple):
    """Seconds and squared error of each repeat."""

    seconds: list[float]
    errors: list[float]


def ours(init: Initialization) -> Method:
    """flyweight from one of its starts, with the cluster of each value, as the peers give it."""

    def cluster(values: Values, clusters: int, seed: int) -> Any:
        tensor = torch.from_numpy(values)
        centroids = kmeans_1d(tensor, clusters, init=init, iterations=ROUNDS, seed=seed)
        nearest(tensor, centroids)
        return centroids.numpy()

    return cluster


def methods() -> dict[str, Method]:
    """All that are installed, ours first."""
    found = {f"flyweight, {init}": ours(init) for init in INITIALIZATIONS}  # type: ignore[arg-type]
    with suppress(ImportError):
        from sklearn.cluster import KMeans

        def scikit_learn(values: Values, clusters: int, seed: int) -> Any:
            means = KMeans(clusters, n_init=1, max_iter=ROUNDS, random_state=seed)
            return means.fit(values[:, None]).cluster_centers_

        found["scikit-learn KMeans"] = scikit_learn
    with suppress(ImportError):
        from flash1dkmeans import kmeans_1d as flash

        def flash_1d(values: Values, clusters: int, seed: int) -> Any:
            return flash(values, clusters, max_iter=ROUNDS, random_state=seed)[0]

        found["flash1dkmeans"] = flash_1d
    with suppress(ImportError):
        import kmeans1d

        found["kmeans1d"] = lambda values, clusters, seed: (
            kmeans1d.cluster(values, clusters).centroids
        )
    return found


def tensors_of(name: str, count: int) -> list[Values]:
    """The weights of a set, tensor by tensor."""
    if name == "resnet20":
        weights = weights_of("resnet20") or {}
        return [weight.flatten().numpy() for weight in weights.values() if weight.ndim > 1]
    generator = np.random.default_rng(0)
    draw = {"laplace": generator.laplace, "gaussian": generator.normal}[name]
    return [draw(size=count).astype(np.float32)]


def squared_error(values: Values, centroids: Any) -> float:
    """Of each value from the nearest centroid, in sum, in float64."""
    ordered = np.sort(np.asarray(centroids, dtype=np.float64).ravel())
    exact = values.astype(np.float64)
    places = np.searchsorted((ordered[1:] + ordered[:-1]) / 2, exact)
    return float(np.square(exact - ordered[places]).sum())


def measure(tensors: Sequence[Values], clusters: int, repeats: int) -> dict[str, Measured]:
    """Each method in turn, ``repeats`` times, or less often if it is slow."""
    every = methods()
    few = np.random.default_rng(0).normal(size=2000).astype(np.float32)
    for cluster in every.values():
        cluster(few, 8, 0)
    found = {name: Measured([], []) for name in every}
    for seed in range(repeats):
        for name, cluster in every.items():
            seconds, errors = found[name]
            if seconds and (len(seconds) + 1) * seconds[0] > LONGEST:
                continue
            begin = time.process_time()
            centroids = [cluster(values, clusters, seed) for values in tensors]
            seconds.append(time.process_time() - begin)
            errors.append(sum(map(squared_error, tensors, centroids)))
    return found


def rows_of(
    name: str, tensors: Sequence[Values], clusters: int, found: dict[str, Measured]
) -> list[Row]:
    """What was measured for a set and a number of clusters."""
    middle = {method: statistics.median(measured.errors) for method, measured in found.items()}
    least = min(middle.values())
    return [
        origin()
        | {
            "set": name,
            "values": sum(values.size for values in tensors),
            "tensors": len(tensors),
            "clusters": clusters,
            "method": method,
            "seconds": f"{statistics.median(measured.seconds):.4g}",
            "squared_error": f"{middle[method]:.9g}",
            "over_least_percent": f"{100 * (middle[method] / least - 1):.4f}",
            "repeats": len(measured.seconds),
        }
        for method, measured in found.items()
    ]


def table(rows: Sequence[Row]) -> str:
    """Markdown of the rows: for each set a table, a pair of columns for each number of clusters."""
    parts = []
    for name in dict.fromkeys(row["set"] for row in rows):
        chosen = [row for row in rows if row["set"] == name]
        sizes = list(dict.fromkeys(row["clusters"] for row in chosen))
        one = chosen[0]
        pieces = "" if int(one["tensors"]) == 1 else f" in {one['tensors']} tensors"
        parts.append(
            f"Set {name}: {int(one['values']):,} values{pieces}; {told(one)}; medians of "
            f"{max(int(row['repeats']) for row in chosen)} runs."
        )
        columns = [":method"]
        for clusters in sizes:
            columns += [f"{clusters} clusters, s", "error"]
        cells = [
            [method, *(cell for clusters in sizes for cell in _cells(chosen, method, clusters))]
            for method in dict.fromkeys(row["method"] for row in chosen)
        ]
        parts.append(markdown(columns, cells))
    return "\n\n".join(parts)


def _cells(rows: Sequence[Row], method: str, clusters: str) -> tuple[str, str]:
    most = max(int(row["repeats"]) for row in rows)
    for row in rows:
        if row["method"] == method and row["clusters"] == clusters:
            fewer = "" if int(row["repeats"]) == most else f" ({row['repeats']})"
            return f"{row['seconds']}{fewer}", f"+{float(row['over_least_percent']):.2f} %"
    return "", ""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write both tables."""
    parser = argparse.ArgumentParser(description="One-dimensional k-means against that of others.")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--values", type=int, default=1_000_000, help="in a synthetic set")
    parser.add_argument("--clusters", nargs="+", type=int, default=CLUSTERS)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    keep_freed_memory()
    rows: list[Row] = []
    for name in options.sets:
        tensors = tensors_of(name, options.values)
        for clusters in options.clusters:
            found = measure(tensors, clusters, options.repeats)
            rows += rows_of(name, tensors, clusters, found)
        print(table([row for row in rows if row["set"] == name]), flush=True)
    write_rows("kmeans", rows)
    put_table("kmeans", table(rows))


if __name__ == "__main__":
    main()
