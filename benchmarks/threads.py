"""How much faster the coders are on two threads than on one.

    python -m benchmarks.threads [--symbols 67108864] [--repeats 5] [--seconds 3]

Sets (a) and (b) of `benchmarks.coders`, by the public `flyweight.coding.encode` and `decode`, which
take a thread a core. Runs alternate in one process, which may use one core or two of those that it
has; the median counts. Freed memory is kept for the next run. The bytes are the same on any number
of threads. How much the machine has to give is told by two processes that decode a short stream
again and again for ``--seconds``, each on its own: what they get done together over what one of
them does alone. Writes ``benchmarks/results/threads.csv`` and the table in ``docs/benchmarks.md``.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from multiprocessing import get_context

from benchmarks.codecs import Codec, measure
from benchmarks.coders import OURS, ours, same
from benchmarks.report import Row, markdown, origin, put_table, told, write_rows
from benchmarks.weights import SYNTHETIC, Layer, layers_of
from flyweight.coding import decode, encode
from flyweight.training import keep_freed_memory


def on_cores(codec: Codec, cores: Sequence[int]) -> Codec:
    """A coder in a process that may use these cores, and so takes as many threads."""

    def prepare(layers: Sequence[Layer]) -> list[object]:
        os.sched_setaffinity(0, cores)
        prepared: list[object] = codec.prepare(layers)
        return prepared

    return codec._replace(name=f"{codec.name}/{len(cores)}", prepare=prepare)


def rounds(seconds: float) -> int:
    """How often this process decodes a stream that fits into its caches."""
    (layer,) = layers_of("a", 1 << 17) or ()
    data = encode(layer.symbols, "rans")
    done = 0
    end = time.perf_counter() + seconds
    while done < 1 or time.perf_counter() < end:
        decode(data)
        done += 1
    return done


def of_two_processes(seconds: float) -> float:
    """What two processes do at once over what one does: threads cannot be expected to do more."""
    with get_context("spawn").Pool(2) as pool:
        pool.map(rounds, [0.0, 0.0], chunksize=1)  # both are there
        alone = pool.apply(rounds, (seconds,))
        return sum(pool.map(rounds, [seconds] * 2, chunksize=1)) / alone


def rows_of(
    name: str, layers: Sequence[Layer], repeats: int, processes: float, cores: Sequence[int]
) -> list[Row]:
    """What one set gives; ``processes`` is what two of them do over what one does."""
    codecs = [on_cores(ours(coder), cores[:n]) for coder in OURS for n in (1, 2)]
    timings = measure(codecs, layers, same, repeats)
    symbols = sum(layer.symbols.size for layer in layers)
    rows = []
    for coder in OURS:
        one, two = (timings[f"flyweight {coder}/{n}"] for n in (1, 2))
        if one.size != two.size:
            raise RuntimeError(f"{coder} gives other bytes on two threads")
        rows.append(
            origin()
            | {"set": name, "symbols": symbols, "coder": f"flyweight {coder}"}
            | {
                f"{way}_msym_s_{threads}": f"{symbols / seconds / 1e6:.4g}"
                for threads, timing in ((1, one), (2, two))
                for way, seconds in (("encode", timing.encode), ("decode", timing.decode))
            }
            | {
                "encode_ratio": f"{one.encode / two.encode:.2f}",
                "decode_ratio": f"{one.decode / two.decode:.2f}",
                "two_processes_ratio": f"{processes:.2f}",
                "repeats": min(one.repeats, two.repeats),
            }
        )
    return rows


def table(rows: Sequence[Row]) -> str:
    """Markdown of the rows."""
    columns = [":set", ":coder", "encode on 1, Msym/s", "on 2", "ratio"]
    columns += ["decode on 1, Msym/s", "on 2", "ratio", "runs"]
    keys = ["set", "coder"]
    for way in ("encode", "decode"):
        keys += [f"{way}_msym_s_1", f"{way}_msym_s_2", f"{way}_ratio"]
    keys.append("repeats")
    text = (
        f"{int(rows[0]['symbols']):,} symbols a set; {told(rows[0])}. Two processes that decode, "
        f"each on its own, get {rows[0]['two_processes_ratio']} times as much done as one.\n\n"
    )
    return text + markdown(columns, [[row[key] for key in keys] for row in rows])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write both tables."""
    parser = argparse.ArgumentParser(description="The coders on two threads.")
    parser.add_argument("--symbols", type=int, default=1 << 26)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of two processes")
    options = parser.parse_args(arguments)
    keep_freed_memory()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("two cores are needed; run this without taskset")
    processes = of_two_processes(options.seconds)
    rows: list[Row] = []
    try:
        for name in SYNTHETIC:
            layers = layers_of(name, options.symbols) or []
            rows += rows_of(name, layers, options.repeats, processes, cores)
    finally:
        os.sched_setaffinity(0, cores)
    for row in rows:
        row["cores"] = len(cores)
    print(table(rows), flush=True)
    write_rows("threads", rows)
    put_table("threads", table(rows))


if __name__ == "__main__":
    main()
