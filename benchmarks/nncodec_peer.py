"""Code layers with the DeepCABAC of NNCodec and tell bytes and seconds as JSON.

    .venv-nncodec/bin/python benchmarks/nncodec_peer.py layers.npz 3

Stands alone, as nncodec needs an older numpy than flyweight. The file holds one int32 array a
layer. Of nncodec only the compiled coder is loaded: the package around it wants torch and more.
"default" is what `nncodec.nn.encode` sets, rows that are all zero skipped; "fast" leaves out its
search of adaptation rates; "best" tries settings on the first million values of each layer and
takes the smallest, without counting the time of that. Where a layer has no zeros, "best" may also
have the least positive value stand for zero. A byte a layer would have to tell the settings; it is
not counted.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

LONGEST = 20.0  # seconds for all repeats
SAMPLE = 1_000_000  # values


class Settings(NamedTuple):
    """Greater-than flags before Exp-Golomb, whether rates are searched, and the mapping."""

    unary: int = 11
    rates: int = 1
    shifted: bool = False


def load_coder() -> Any:
    """The compiled module, without running the package it is in."""
    spec = importlib.util.find_spec("nncodec")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("nncodec is not installed in this environment")
    folder = Path(spec.submodule_search_locations[0]) / "extensions"
    found = importlib.util.spec_from_file_location("deepCABAC", next(folder.glob("deepCABAC*.so")))
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


CODER = load_coder()
NO_HISTORY = (CODER.HdspMode.AlwaysOff, np.zeros(0, np.int8), 0, 0)


def shift(values: np.ndarray, by: int) -> np.ndarray:
    """Move positive values, so that the least of them becomes 0, or back."""
    return np.where(values >= max(by, 0), values - by, values).astype(np.int32)


def encode(values: np.ndarray, settings: Settings) -> np.ndarray:
    """Code one layer."""
    if settings.shifted:
        values = shift(values, 1)
    rows = values.reshape(values.shape[0], -1)
    zero_rows = (~rows.any(axis=1)).astype(np.int32)
    skip = int(zero_rows.any())
    encoder = CODER.Encoder()
    encoder.initCtxModels(settings.unary, settings.rates)
    encoder.encodeLayer(rows, 0, 0, 1, 0, skip, zero_rows, *NO_HISTORY)
    return encoder.finish()


def decode(coded: np.ndarray, shape: tuple[int, ...], settings: Settings) -> np.ndarray:
    """Give back what `encode` was given."""
    values = np.zeros((shape[0], int(np.prod(shape[1:], dtype=np.int64))), np.int32)
    decoder = CODER.Decoder()
    decoder.setStream(coded)
    decoder.initCtxModels(settings.unary)
    decoder.decodeLayer(values, 0, 0, 1, 0, *NO_HISTORY)
    values = values.reshape(shape)
    return shift(values, -1) if settings.shifted else values


def best_settings(values: np.ndarray) -> Settings:
    """The smallest of some, tried on the first rows."""
    sample = values[: max(1, SAMPLE * values.shape[0] // values.size)]
    tried = [Settings(unary=unary) for unary in (2, 5, 11, 17)]
    if (values != 0).all():
        tried += [settings._replace(shifted=True) for settings in tried]
    return min(tried, key=lambda settings: encode(sample, settings).size)


def measure(layers: list[np.ndarray], settings: list[Settings], repeats: int) -> dict[str, Any]:
    """Time all layers; fewer repeats where they would take too long."""
    runs: list[tuple[float, float]] = []
    size = 0
    while len(runs) < repeats and (len(runs) + 1) * sum(runs[0] if runs else ()) <= LONGEST:
        start = time.perf_counter()
        coded = [encode(values, chosen) for values, chosen in zip(layers, settings, strict=True)]
        middle = time.perf_counter()
        decoded = [decode(c, v.shape, s) for c, v, s in zip(coded, layers, settings, strict=True)]
        runs.append((middle - start, time.perf_counter() - middle))
        if not all(map(np.array_equal, decoded, layers)):
            raise SystemExit("a layer did not come back")
        size = sum(stream.size for stream in coded)
    ways = [statistics.median(run[way] for run in runs) for way in (0, 1)]
    return {"size": size, "encode": ways[0], "decode": ways[1], "repeats": len(runs)}


def main() -> None:
    """Read the layers, code them twice over, print."""
    with np.load(sys.argv[1]) as file:
        layers = [file[name] for name in file.files]
    layers = [v if v.ndim > 1 else v.reshape(-1, min(1000, v.size)) for v in layers]
    repeats = int(sys.argv[2])
    chosen = {
        "nncodec DeepCABAC, default": [Settings()] * len(layers),
        "nncodec DeepCABAC, fast": [Settings(rates=0)] * len(layers),
        "nncodec DeepCABAC, best": [best_settings(values) for values in layers],
    }
    print(json.dumps({name: measure(layers, s, repeats) for name, s in chosen.items()}))


if __name__ == "__main__":
    main()
