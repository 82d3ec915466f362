"""What flyweight is meant to reach beside what the last runs reached.

    python -m benchmarks.aims

Reads ``benchmarks/results/*.csv`` and measures nothing. Sizes and ratios are those of the worst
set that an aim covers; of several peers or settings of a peer, the best counts. Ratios are of rows
of one run. Writes the list in ``docs/benchmarks.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from benchmarks.report import Row, markdown, put_table, read_rows
from benchmarks.weights import REAL, SYNTHETIC

Figures = Callable[[], Sequence[float]]
"""One number a case; none if it has not been measured."""


class Aim(NamedTuple):
    """A figure and the bound that all its cases are to keep."""

    what: str
    sign: str
    """"<", "<=" or ">="."""
    bound: float
    unit: str
    figures: Figures
    digits: int = 2


def rows(name: str, **wanted: str) -> list[Row]:
    """The rows of a benchmark whose columns are as wanted."""
    return [r for r in read_rows(name) if all(r[key] == text for key, text in wanted.items())]


def column(name: str, key: str, **wanted: str) -> Figures:
    """A column of some rows."""
    return lambda: [float(row[key]) for row in rows(name, **wanted)]


def coder(key: str, sets: Sequence[str], scale: float = 1.0) -> Figures:
    """A column of the rANS coder on some sets."""
    return lambda: [
        float(row[key]) * scale
        for name in sets
        for row in rows("coders", set=name, coder="flyweight rans")
    ]


def against(peer: str, ours: str, key: str, sets: Sequence[str]) -> Figures:
    """Ours over the best of the peer's rows: the largest, or of bytes the smallest."""
    best = min if key == "bytes" else max

    def ratios() -> list[float]:
        found = []
        for name in sets:
            all_rows = rows("coders", set=name)
            mine = [float(r[key]) for r in all_rows if r["coder"] == f"flyweight {ours}"]
            theirs = [float(r[key]) for r in all_rows if r["coder"].startswith(peer)]
            if mine and theirs:
                found.append(mine[0] / best(theirs))
        return found

    return ratios


def lossless(key: str) -> Figures:
    """Byte planes over zipnn."""

    def ratios() -> list[float]:
        found = []
        for mine in rows("lossless", codec="flyweight planes"):
            where = {"set": mine["set"], "dtype": mine["dtype"]}
            found += [
                float(mine[key]) / float(row[key])
                for row in rows("lossless", codec="zipnn", **where)
            ]
        return found

    return ratios


def optimal_kmeans(key: str, **wanted: str) -> Figures:
    """A column of the optimal clusters, of some sets and numbers of clusters."""
    return column("kmeans", key, method="flyweight, optimal", **wanted)


def memory_over_bound() -> list[float]:
    """Most memory less six times the largest tensor, to compress to 4 bits on two threads."""
    return [
        float(row["peak_mb"]) - 6 * float(row["largest_tensor_bytes"]) / 1e6
        for row in rows("checkpoints", command="compress", threads="2")
        if row["options"] != "--lossless"
    ]


AIMS = (
    Aim(
        "rANS, bytes over order-0 entropy, set a",
        "<=",
        0.1,
        " %",
        coder("over_entropy_percent", ["a"]),
    ),
    Aim(
        "rANS, bytes over order-0 entropy, set b",
        "<=",
        0.4,
        " %",
        coder("over_entropy_percent", ["b"]),
    ),
    Aim(
        "rANS, decoding, sets a and b",
        ">=",
        0.75,
        " Gsym/s",
        coder("decode_msym_s", SYNTHETIC, 1e-3),
    ),
    Aim(
        "rANS, encoding, sets a and b",
        ">=",
        0.6,
        " Gsym/s",
        coder("encode_msym_s", SYNTHETIC, 1e-3),
    ),
    Aim(
        "rANS, decoding on two threads over one",
        ">=",
        1.7,
        "x",
        column("threads", "decode_ratio", coder="flyweight rans"),
    ),
    Aim(
        "rANS, encoding on two threads over one",
        ">=",
        1.7,
        "x",
        column("threads", "encode_ratio", coder="flyweight rans"),
    ),
    Aim(
        "Huffman, decoding over zstd -1, set a",
        ">=",
        1.0,
        "x",
        against("zstd -1", "interleaved", "decode_msym_s", ["a"]),
    ),
    Aim(
        "Huffman, encoding over zstd -1, set a",
        ">=",
        1.0,
        "x",
        against("zstd -1", "interleaved", "encode_msym_s", ["a"]),
    ),
    Aim(
        "context coder, bytes over nncodec, real weights",
        "<",
        1.0,
        "x",
        against("nncodec", "context", "bytes", REAL),
        4,
    ),
    Aim(
        "context coder, decoding over nncodec, as it is set, real weights",
        ">=",
        1.5,
        "x",
        against("nncodec DeepCABAC, default", "context", "decode_msym_s", REAL),
    ),
    Aim(
        "context coder, decoding over nncodec, its fastest setting, real weights",
        ">=",
        1.5,
        "x",
        against("nncodec", "context", "decode_msym_s", REAL),
    ),
    Aim(
        "context coder, encoding over nncodec, as it is set, real weights",
        ">=",
        1.5,
        "x",
        against("nncodec DeepCABAC, default", "context", "encode_msym_s", REAL),
    ),
    Aim(
        "context coder, encoding over nncodec, its fastest setting, real weights",
        ">=",
        1.5,
        "x",
        against("nncodec", "context", "encode_msym_s", REAL),
    ),
    Aim("byte planes, bytes over zipnn", "<=", 1.0, "x", lossless("bytes"), 4),
    Aim("byte planes, decoding over zipnn", ">=", 0.7, "x", lossless("decode_mb_s")),
    Aim(
        "a step of training with masks, over one without",
        "<=",
        10,
        " %",
        lambda: [float(r["over_dense_percent"]) for r in rows("masking") if r["loop"] != "dense"],
        1,
    ),
    Aim(
        "ResNet-20 by Huffman into a module, warm cache",
        "<=",
        60,
        " ms",
        column("opening", "load_ms", cache="warm", coder="plain"),
        0,
    ),
    Aim(
        "the same and importing flyweight, torch imported",
        "<=",
        60,
        " ms",
        column("opening", "import_and_load_ms", cache="warm", coder="plain"),
        0,
    ),
    Aim(
        "ResNet-20 of fewest bytes into a module, warm cache",
        "<=",
        60,
        " ms",
        column("opening", "load_ms", cache="warm", coder="auto"),
        0,
    ),
    Aim(
        "checkpoint to 4 bits, two threads",
        ">=",
        150,
        " MB/s",
        lambda: [
            float(row["mb_s"])
            for row in rows("checkpoints", command="compress", threads="2")
            if row["options"] != "--lossless"
        ],
        0,
    ),
    Aim("memory for that, less 6 times the largest tensor", "<=", 300, " MB", memory_over_bound, 0),
    Aim(
        "optimal k-means, 32 clusters of a million weights",
        "<",
        2.0,
        " s",
        optimal_kmeans("seconds", clusters="32", values="1000000"),
    ),
    Aim(
        "optimal k-means, squared error over the least of all peers",
        "<=",
        0.0,
        " %",
        optimal_kmeans("over_least_percent"),
        4,
    ),
)


def judged(aim: Aim) -> tuple[str, str, str, str]:
    """What, aim, reached, and whether, as a row of the list."""
    wanted = f"{aim.sign} {aim.bound:g}{aim.unit}"
    figures = aim.figures()
    if not figures:
        return aim.what, wanted, "not measured", ""
    worst = min(figures) if aim.sign == ">=" else max(figures)
    kept = {"<": worst < aim.bound, "<=": worst <= aim.bound, ">=": worst >= aim.bound}[aim.sign]
    return aim.what, wanted, f"{worst:.{aim.digits}f}{aim.unit}", "yes" if kept else "no"


def table() -> str:
    """Markdown of all aims."""
    return markdown([":figure", "aim", "reached", ":"], map(judged, AIMS))


def main() -> None:
    """Print and write the list."""
    print(table())
    put_table("aims", table())


if __name__ == "__main__":
    main()
