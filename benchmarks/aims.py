"""What flyweight is meant to reach beside what the last runs reached.

    python -m benchmarks.aims

Reads ``benchmarks/results/*.csv`` and measures nothing. Sizes and ratios are those of the worst
set that an aim covers; of several peers or settings of a peer, the best counts. Ratios are of rows
of one run. Writes the list in ``docs/benchmarks.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from benchmarks.report import Row, markdown, put_table, read_rows
from benchmarks.weights import REAL, SYNTHETIC

Figures = Callable[[], Sequence[float]]
"""One number a case; none if it has not been measured."""


class Aim(NamedTuple):
    """A figure, and the bound that all its cases are to keep, as "<= 1 s"."""

    what: str
    bound: str
    figures: Figures


def rows(name: str, **wanted: str) -> list[Row]:
    """The rows of a benchmark whose columns are as wanted."""
    return [r for r in read_rows(name) if all(r[key] == text for key, text in wanted.items())]


def column(name: str, key: str, **wanted: str) -> Figures:
    """A column of some rows."""
    return lambda: [float(row[key]) for row in rows(name, **wanted)]


def ratios(
    name: str, ours: str, theirs: str, key: str, sets: Sequence[str] | None = None
) -> Figures:
    """Ours over the best of the peer's rows, set by set and dtype by dtype.

    Names of coders begin as told. The best is the fastest, or the one of fewest bytes.
    """
    best = min if key == "bytes" else max

    def found() -> list[float]:
        groups: dict[tuple[str, str | None], list[Row]] = {}
        for row in rows(name):
            if sets is None or row["set"] in sets:
                groups.setdefault((row["set"], row.get("dtype")), []).append(row)
        figures = []
        for group in groups.values():
            mine, peers = (
                [float(row[key]) for row in group if row["coder"].startswith(coder)]
                for coder in (f"flyweight {ours}", theirs)
            )
            if mine and peers:
                figures.append(mine[0] / best(peers))
        return figures

    return found


def rans(sets: Sequence[str], key: str, scale: float = 1.0) -> Figures:
    """A column of the rANS coder on some sets."""
    return lambda: [
        float(row[key]) * scale
        for name in sets
        for row in rows("coders", set=name, coder="flyweight rans")
    ]


def over_htscodecs(key: str) -> Figures:
    """The rANS coder over that of htscodecs."""
    return ratios("coders", "rans", "htscodecs", key, SYNTHETIC)


def over_nncodec(setting: str, key: str) -> Figures:
    """The context coder over a setting of NNCodec, or over all, on real weights."""
    return ratios("coders", "context", f"nncodec DeepCABAC{setting}", key, REAL)


def over_zstd(key: str) -> Figures:
    """The Huffman coder over zstd on set (a)."""
    return ratios("coders", "huffman", "zstd -1", key, ["a"])


def over_zipnn(key: str) -> Figures:
    """Lossless coding over zipnn: bytes of the smallest form, speed of byte planes."""
    return ratios("lossless", "lossless" if key == "bytes" else "planes", "zipnn", key)


def small_planes() -> Figures:
    """The coder of byte planes over zipnn on many small tensors."""
    return ratios("lossless", "planes", "zipnn", "decode_mb_s", ["resnet20"])


def checkpoint(key: str, lossless: bool) -> list[float]:
    """A figure of compressing the large checkpoint on two threads."""
    return [
        float(row[key]) - (key == "peak_mb") * 6 * float(row["largest_tensor_bytes"]) / 1e6
        for row in rows("checkpoints", command="compress", threads="2")
        if (row["options"] == "--lossless") == lossless
    ]


def masked_steps() -> list[float]:
    """What masks add to a step."""
    return [float(row["over_dense_percent"]) for row in rows("masking") if row["loop"] != "dense"]


def optimal_kmeans(key: str, **wanted: str) -> Figures:
    """A column of the optimal clusters, of some sets and numbers of clusters."""
    return column("kmeans", key, method="flyweight, optimal", **wanted)


def million_weights() -> Figures:
    """Seconds of optimal clusters."""
    return optimal_kmeans("seconds", clusters="32", values="1000000")


ENCODE, DECODE = "encode_msym_s", "decode_msym_s"
SMALL = "many small tensors (ResNet-20)"
KINDS = (("to 4 bits", False), ("lossless", True))
AIMS = (
    Aim("smallest ResNet-20 file into a module", "<= 40 ms", column("opening", "load_ms")),
    Aim("importing flyweight over torch", "<= 50 ms", column("opening", "import_ms")),
    Aim("context coder, bytes over NNCodec", "<= 0.985 x", over_nncodec("", "bytes")),
    Aim("context coder, decoding over NNCodec", ">= 2.5 x", over_nncodec(", default", DECODE)),
    Aim("the same, over its fastest setting", ">= 2.5 x", over_nncodec("", DECODE)),
    Aim("context coder, encoding over NNCodec", ">= 4 x", over_nncodec(", default", ENCODE)),
    Aim("the same, over its fastest setting", ">= 4 x", over_nncodec("", ENCODE)),
    Aim("rANS, bytes over order-0 entropy, set a", "<= 0.1 %", rans(["a"], "over_entropy_percent")),
    Aim("rANS, bytes over order-0 entropy, set b", "<= 0.4 %", rans(["b"], "over_entropy_percent")),
    Aim("rANS, decoding, sets a and b", ">= 1.2 Gsym/s", rans(SYNTHETIC, DECODE, 1e-3)),
    Aim("the same, over htscodecs with AVX2", ">= 1 x", over_htscodecs(DECODE)),
    Aim("rANS, encoding, sets a and b", ">= 0.6 Gsym/s", rans(SYNTHETIC, ENCODE, 1e-3)),
    Aim("the same, over htscodecs with AVX2", ">= 1 x", over_htscodecs(ENCODE)),
    Aim("Huffman, decoding over zstd -1, set a", ">= 1.2 x", over_zstd(DECODE)),
    Aim("Huffman, encoding over zstd -1, set a", ">= 1.2 x", over_zstd(ENCODE)),
    Aim(f"{SMALL}, rANS, encoding", ">= 100 Msym/s", rans(["resnet20"], ENCODE)),
    Aim(f"{SMALL}, byte planes, decoding over zipnn", ">= 1 x", small_planes()),
    *(
        Aim(
            f"{coder}, {way[:-1]}ing on two threads over one",
            ">= 1.8 x",
            column("threads", f"{way}_ratio", coder=f"flyweight {coder.lower()}"),
        )
        for coder in ("Huffman", "rANS", "context")
        for way in ("encode", "decode")
    ),
    *(
        Aim(f"checkpoint {name}, two threads", ">= 300 MB/s", partial(checkpoint, "mb_s", exact))
        for name, exact in KINDS
    ),
    *(
        Aim(
            f"memory of that, {name}, less 6 times the largest tensor",
            "<= 300 MB",
            partial(checkpoint, "peak_mb", exact),
        )
        for name, exact in KINDS
    ),
    Aim("lossless, bytes over zipnn", "<= 1 x", over_zipnn("bytes")),
    Aim("byte planes, encoding over zipnn", ">= 1 x", over_zipnn("encode_mb_s")),
    Aim("byte planes, decoding over zipnn", ">= 1 x", over_zipnn("decode_mb_s")),
    Aim("redundant tensors, bytes over xz -9e", "<= 1.01 x", column("redundant", "over_xz")),
    Aim("loading a hostile file of 100 KB", "<= 1 s", column("hostile", "seconds")),
    Aim("memory of that over what it declares", "<= 4 x", column("hostile", "memory_ratio")),
    Aim("a step of training with masks, over one without", "<= 10 %", masked_steps),
    Aim("optimal k-means, 32 clusters of a million weights", "< 2 s", million_weights()),
    Aim("the same, squared error over the least", "<= 0 %", optimal_kmeans("over_least_percent")),
)


def judged(aim: Aim) -> tuple[str, str, str, str]:
    """What, aim, reached, and whether, as a row of the list."""
    figures = aim.figures()
    if not figures:
        return aim.what, aim.bound, "not measured", ""
    sign, number, unit = aim.bound.split()
    bound, worst = float(number), min(figures) if sign == ">=" else max(figures)
    kept = {"<": worst < bound, "<=": worst <= bound, ">=": worst >= bound}[sign]
    digits = 0 if unit in ("ms", "MB", "MB/s", "Msym/s") else 4 if sign == "<=" else 2
    return aim.what, aim.bound, f"{worst:.{digits}f} {unit}", "yes" if kept else "no"


def table() -> str:
    """Markdown of all aims."""
    return markdown([":figure", "aim", "reached", ":"], map(judged, AIMS))


def main() -> None:
    """Print and write the list."""
    print(table())
    put_table("aims", table())


if __name__ == "__main__":
    main()
