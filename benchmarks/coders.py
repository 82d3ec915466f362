"""Size and speed of the coders against those of others, on synthetic and on real weights.

    python -m benchmarks.coders [--sets a b resnet20 ...] [--symbols 10000000] [--repeats 3]

Every row is encoded, decoded and compared. Speeds are the median of the repeats, in millions of
symbols a second, on one core if the process is pinned to one (``taskset -c 1``); repeats of all
coders alternate. Sizes are of everything that a decoder needs. Peers that are not installed are
left out (``pip install -c constraints.txt --group bench``). Writes
``benchmarks/results/coders.csv`` and the table in ``docs/benchmarks.md``.

Sets: (a) 32 k-means clusters of Laplacian weights; (b) 90 % zeros, the rest 8 levels as often as
each other; "resnet20": the shipped network, 5-bit k-means per layer; "resnet20-sparse": the same,
90 % pruned by global magnitude, 15 levels at most.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import lzma
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from flyweight.coding import entropy
from flyweight.coding.coders import decode_stream, encode_stream
from flyweight.models import load_pretrained
from flyweight.provenance import source_commit
from flyweight.pruning import global_magnitude_masks
from flyweight.quantization import kmeans_1d, share
from flyweight.training.precision import describe_device

RESULTS = Path(__file__).parent / "results" / "coders.csv"
DOCS = Path(__file__).parents[1] / "docs" / "benchmarks.md"
NOT_YET = " It has not been\nrun on an idle machine yet, so there is no table."
BEGIN, END = "<!-- results: python -m benchmarks.coders -->", "<!-- end of coders -->"

Symbols = NDArray[np.uint8]


class Layer(NamedTuple):
    """Symbols of one tensor; ``negatives`` of the levels are below zero."""

    symbols: Symbols
    alphabet: int
    negatives: int


class Coder(NamedTuple):
    """One way to code the layers of a set, and back."""

    name: str
    encode: Callable[[list[Layer]], list[bytes]]
    decode: Callable[[list[bytes], list[Layer]], list[Symbols]]


def laplacian(count: int) -> list[Layer]:
    """Set (a)."""
    values = np.random.default_rng(0).laplace(size=count)
    centroids = kmeans_1d(torch.from_numpy(values[:1_000_000]), 32, init="density").numpy()
    symbols = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values).astype(np.uint8)
    return [Layer(symbols, 32, int((centroids < 0).sum()))]


def sparse(count: int) -> list[Layer]:
    """Set (b)."""
    rng = np.random.default_rng(0)
    kept = rng.random(count) < 0.1
    return [Layer((rng.integers(1, 9, count) * kept).astype(np.uint8), 9, 4)]


def resnet20(sparsity: float) -> list[Layer]:
    """The shipped network, k-means per layer; pruned globally first, if asked for."""
    weights = {n: p.detach() for n, p in load_pretrained("resnet20").named_parameters()}
    weights = {name: weight for name, weight in weights.items() if weight.ndim > 1}
    if sparsity:
        masks = global_magnitude_masks(weights, sparsity)
        weights = {name: weight * masks[name] for name, weight in weights.items()}
    layers = []
    for weight in weights.values():
        tensor = share(weight, bits=4 if sparsity else 5)
        levels = tensor.levels.numel()
        negatives = int((tensor.levels < 0).sum())
        layers.append(Layer(tensor.symbols.numpy().astype(np.uint8), levels + 1, negatives))
    return layers


def ours(name: str) -> Coder:
    """One of flyweight's coders, layer by layer."""

    def encode(layers: list[Layer]) -> list[bytes]:
        out: list[bytes] = []
        for layer in layers:
            out += encode_stream(  # type: ignore[arg-type]
                name, layer.symbols, layer.alphabet, negatives=layer.negatives
            )
        return out

    def decode(blobs: list[bytes], layers: list[Layer]) -> list[Symbols]:
        return [
            decode_stream(name, table, payload, layer.symbols.shape, layer.alphabet)  # type: ignore[arg-type]
            for table, payload, layer in zip(blobs[::2], blobs[1::2], layers, strict=True)
        ]

    return Coder(f"flyweight {name}", encode, decode)


def of_bytes(
    name: str, compress: Callable[[bytes], bytes], expand: Callable[[bytes], bytes]
) -> Coder:
    """A compressor of bytes; the layers go through it in one piece."""

    def encode(layers: list[Layer]) -> list[bytes]:
        return [compress(b"".join(layer.symbols.tobytes() for layer in layers))]

    def decode(blobs: list[bytes], layers: list[Layer]) -> list[Symbols]:
        raw = np.frombuffer(expand(blobs[0]), dtype=np.uint8)
        ends = np.cumsum([layer.symbols.size for layer in layers])[:-1]
        return np.split(raw, ends)

    return Coder(name, encode, decode)


def peers() -> list[Coder]:
    """Those that are installed."""
    found = [of_bytes("xz", lambda data: lzma.compress(data, preset=6), lzma.decompress)]
    try:
        import zstandard

        for level in (1, 19):
            compressor = zstandard.ZstdCompressor(level=level)
            expand = zstandard.ZstdDecompressor().decompress
            found.append(of_bytes(f"zstd -{level}", compressor.compress, expand))
    except ImportError:
        pass
    try:
        import brotli

        found.append(
            of_bytes("brotli -5", lambda data: brotli.compress(data, quality=5), brotli.decompress)
        )
    except ImportError:
        pass
    try:
        import constriction

        found.append(_constriction(constriction))
    except ImportError:
        pass
    return found


def _constriction(library: object) -> Coder:
    stream = library.stream  # type: ignore[attr-defined]

    def model(layer: Layer) -> object:
        counts = np.bincount(layer.symbols.ravel(), minlength=layer.alphabet) + 1e-9
        return stream.model.Categorical((counts / counts.sum()).astype("f4"), perfect=False)

    def encode(layers: list[Layer]) -> list[bytes]:
        out = []
        for layer in layers:
            coder = stream.stack.AnsCoder()
            coder.encode_reverse(layer.symbols.ravel().astype(np.int32), model(layer))
            out.append(coder.get_compressed().tobytes())
        return out

    def decode(blobs: list[bytes], layers: list[Layer]) -> list[Symbols]:
        return [
            stream.stack.AnsCoder(np.frombuffer(blob, dtype=np.uint32))
            .decode(model(layer), layer.symbols.size)
            .astype(np.uint8)
            for blob, layer in zip(blobs, layers, strict=True)
        ]

    return Coder("constriction ANS (model not counted)", encode, decode)


def measure(name: str, layers: list[Layer], coders: list[Coder], repeats: int) -> list[dict]:
    """Rows of one set."""
    symbols = sum(layer.symbols.size for layer in layers)
    least = sum(entropy(np.bincount(layer.symbols.ravel())) for layer in layers)
    times: dict[str, tuple[list[float], list[float]]] = {c.name: ([], []) for c in coders}
    sizes: dict[str, int] = {}
    for repeat in range(repeats + 1):
        for coder in coders:
            start = time.perf_counter()
            blobs = coder.encode(layers)
            middle = time.perf_counter()
            decoded = coder.decode(blobs, layers)
            end = time.perf_counter()
            for layer, got in zip(layers, decoded, strict=True):
                if not np.array_equal(layer.symbols.ravel(), np.asarray(got).ravel()):
                    raise RuntimeError(f"{coder.name} does not give back set {name}")
            sizes[coder.name] = sum(map(len, blobs))
            if repeat:  # the first one warms up
                times[coder.name][0].append(symbols / (middle - start) / 1e6)
                times[coder.name][1].append(symbols / (end - middle) / 1e6)
    return [
        {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "commit": source_commit(),
            "cpu": describe_device(torch.device("cpu")),
            "cores": len(os.sched_getaffinity(0)),
            "set": name,
            "symbols": symbols,
            "entropy_bits": f"{least / symbols:.4f}",
            "coder": coder.name,
            "bits_per_symbol": f"{8 * sizes[coder.name] / symbols:.4f}",
            "over_entropy_percent": f"{100 * (8 * sizes[coder.name] / least - 1):.2f}",
            "encode_msym_s": f"{statistics.median(times[coder.name][0]):.1f}",
            "decode_msym_s": f"{statistics.median(times[coder.name][1]):.1f}",
            "repeats": repeats,
        }
        for coder in coders
    ]


def table(rows: list[dict]) -> str:
    """Markdown of the rows, set by set."""
    lines = []
    for name in dict.fromkeys(row["set"] for row in rows):
        chosen = [row for row in rows if row["set"] == name]
        one = chosen[0]
        lines += [
            f"Set {name}: {one['symbols']:,} symbols, order-0 entropy {one['entropy_bits']} bits; "
            f"{one['cpu']}, {one['cores']} core(s), commit {one['commit']}, {one['date']}.",
            "",
            "| coder | bits a symbol | over entropy | encode, Msym/s | decode, Msym/s |",
            "|---|---:|---:|---:|---:|",
        ]
        lines += [
            f"| {row['coder']} | {row['bits_per_symbol']} | {row['over_entropy_percent']} % "
            f"| {row['encode_msym_s']} | {row['decode_msym_s']} |"
            for row in chosen
        ]
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write both tables."""
    parser = argparse.ArgumentParser(description="The coders against those of others.")
    parser.add_argument("--sets", nargs="+", default=["a", "b", "resnet20", "resnet20-sparse"])
    parser.add_argument("--symbols", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    sets: dict[str, Callable[[], list[Layer]]] = {
        "a": lambda: laplacian(options.symbols),
        "b": lambda: sparse(options.symbols),
        "resnet20": lambda: resnet20(0.0),
        "resnet20-sparse": lambda: resnet20(0.9),
    }
    coders = [*map(ours, ("interleaved", "rans", "context")), *peers()]
    rows: list[dict] = []
    for name in options.sets:
        rows += measure(name, sets[name](), coders, options.repeats)
        print(table(rows[-len(coders) :]), flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    text = DOCS.read_text()
    before, rest = text.split(BEGIN)
    before = before.replace(NOT_YET, "")
    DOCS.write_text(f"{before}{BEGIN}\n{table(rows)}{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
