"""Seconds and memory of loading hostile files, each in a fresh process.

    python -m benchmarks.hostile [--bytes 100000] [--repeats 3]

The files of ``tests/hostile/files``, and files of at most so many bytes that stand for as much as
the limits of `docs/format.md` allow: long runs by each coder, constants, aliases, thousands of
tensors. Each is given to the public `flyweight.load` with a module of its names and shapes, where
it states them. Memory is what the process holds at most during the call, less what it held before,
over what the file declares: its own bytes and those of its tensors; 2 MiB come to this, as in
``tests/hostile``. Seconds are medians; pin the process to one core. Writes
``benchmarks/results/hostile.csv`` and the table in ``docs/benchmarks.md``.
"""

from __future__ import annotations

import argparse
import statistics
import string
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from benchmarks.report import Row, markdown, origin, put_table, told, write_rows
from flyweight import load, save
from flyweight.coding import (
    CodedTensor,
    UncodedTensor,
    encode_alias,
    encode_constant,
    encode_lossless,
    encode_shared,
    encode_tensors,
    prepare_shared,
)
from flyweight.errors import FlyweightError
from flyweight.format import Container, Reader, dumps

FIXTURES = Path(__file__).parents[1] / "tests" / "hostile" / "files"
SPARE = 2 << 20


class Measured(NamedTuple):
    """What one process found."""

    outcome: str
    tensors: int
    declared: int
    seconds: float
    memory: int


def file_of(*tensors: CodedTensor, size: int) -> bytes:
    """A file of tensors and of metadata that fill it up to nearly ``size`` bytes."""
    letters = np.array(list(string.printable[:95]))
    text = "".join(np.random.default_rng(0).choice(letters, int(1.3 * size)))
    while len(data := dumps(Container(tensors, {"padding": text}))) > size and text:
        text = text[: size - len(data)]  # a character takes 0.82 bytes
    return data


def many(size: int) -> Iterator[tuple[str, bytes]]:
    """Files of as many tensors, with names as long, as the limits allow."""
    count = 4096 + (size - 400) // 64
    length = (2**17 + 2 * (size - 400)) // count - 12
    zero = encode_constant("zero", (), value=np.float32(0), dtype="float32")
    levels = np.float32([1, 2])
    kinds: dict[str, Callable[[str], CodedTensor | UncodedTensor]] = {
        "constants": lambda name: encode_constant(name, (), value=np.float32(0), dtype="float32"),
        "aliases": lambda name: encode_alias(name, zero, target=0),
        "grouped tensors": lambda name: prepare_shared(
            name, np.array([1, 2, 0, 1]), levels=levels, dtype="float32"
        ),
    }
    for kind, make in kinds.items():
        for names, folder in (("short", ""), ("long", "\U0001f600" + "a" * (length - 4))):
            made = [make(f"{folder}{index // 256}.{index % 256}") for index in range(count - 1)]
            yield f"many {kind}, {names} names", file_of(*encode_tensors([zero, *made]), size=size)


def runs(size: int) -> Iterator[tuple[str, bytes]]:
    """Files of one long tensor, as long as each coder may make it."""
    most = (1 << 26) + 4096 * (size * 9 // 10)  # bytes of all tensors
    count = most // 4
    rng = np.random.default_rng(0)
    one = encode_constant("t", (count,), value=np.float32(1), dtype="float32")
    yield "constant", file_of(one, size=size)

    def shared(name: str, symbols: np.ndarray, dtype: str) -> CodedTensor:
        levels = np.ones(1, dtype=dtype)
        return encode_shared("t", symbols, levels=levels, dtype=dtype, coder=name)

    symbols = np.zeros(count, dtype=np.uint8)
    yield "Huffman, one symbol", file_of(shared("huffman", symbols, "float32"), size=size)
    symbols[::1000] = 1
    yield (
        "Huffman, a bit a symbol",
        file_of(shared("huffman", symbols[: 7 * size], "float32"), size=size),
    )
    symbols[:] = 0
    symbols[-1] = 1
    yield "rANS, float32", file_of(shared("rans", symbols, "float32"), size=size)
    symbols = np.zeros(min(most, 2700 * size), dtype=np.uint8)
    symbols[-1] = 1
    yield "rANS, uint8", file_of(shared("rans", symbols, "uint8"), size=size)
    symbols = np.zeros((1 << 20) + 460 * size, dtype=np.uint8)
    symbols[rng.integers(0, symbols.size, max(4, size // 2 - 1200))] = 1
    for name, shape in (("context", (-1, 1)), ("context of kernels", (-1, 1, 3, 3))):
        part = symbols[: symbols.size // 9 * 9].reshape(shape)
        yield name, file_of(shared("context", part, "float32"), size=size)
    values = np.zeros(count, dtype=np.float32)
    values[rng.integers(0, count, size // 9)] = rng.standard_normal(size // 9)
    yield "scattered values", file_of(encode_lossless("t", values, dtype="float32"), size=size)
    values = np.resize(rng.standard_normal(size // 50, dtype=np.float32), count)
    yield "repeated values", file_of(encode_lossless("t", values, dtype="float32"), size=size)


def cases(size: int) -> Iterator[tuple[str, bytes]]:
    """Names and files; those that a coder makes longer than ``size`` are left out."""
    for path in sorted(FIXTURES.glob("*.fly")):
        yield path.name, path.read_bytes()
    for found in (many(size), runs(size)):
        for name, data in found:
            if len(data) <= size:
                yield name, data
            else:
                print(f"{name} is left out: it takes {len(data):,} bytes", flush=True)


def module_of(path: Path) -> tuple[nn.Module, int, int]:
    """A module that a file fills, the number of its tensors, and their bytes."""
    root = nn.Module()
    count = declared = 0
    with suppress(FlyweightError), Reader(path) as reader:
        for outline in reader.outlines:
            value = torch.empty(outline.shape, dtype=getattr(torch, outline.dtype)).zero_()
            count, declared = count + 1, declared + value.nbytes
            *folders, name = outline.name.split(".")
            with suppress(KeyError, AttributeError):  # names that no module has
                module = root
                for folder in folders:
                    if folder not in module._modules:
                        module.add_module(folder, nn.Module())
                    module = module.get_submodule(folder)
                module.register_buffer(name, value)
    return root, count, declared


def status_of(field: str) -> int:
    """A size of this process in bytes, as the kernel tells it."""
    _, _, rest = Path("/proc/self/status").read_text().partition(f"{field}:")
    return 1024 * int(rest.split()[0])


def work(path: Path, warm: Path) -> Measured:
    """What the fresh process does, after it has loaded a sound file."""
    load(warm, nn.Linear(64, 64))
    model, tensors, declared = module_of(path)
    before = status_of("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the most memory so far is forgotten
    start = time.perf_counter()
    try:
        load(path, model, strict=False)
        outcome = "loaded"
    except FlyweightError:
        outcome = "refused"
    seconds = time.perf_counter() - start
    return Measured(
        outcome, tensors, declared + path.stat().st_size, seconds, status_of("VmHWM") - before
    )


def rows_of(folder: Path, size: int, repeats: int) -> list[Row]:
    """All cases."""
    path, warm = folder / "a.fly", folder / "warm.fly"
    save(nn.Linear(64, 64), warm)
    context = get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.hostile"])
    rows = []
    for name, data in cases(size):
        path.write_bytes(data)
        with context.Pool(1, maxtasksperchild=1) as pool:
            found = [pool.apply(work, (path, warm)) for _ in range(repeats)]
        memory = max(one.memory for one in found)
        rows.append(
            origin()
            | {
                "case": name,
                "file_bytes": len(data),
                "tensors": found[0].tensors,
                "declared_bytes": found[0].declared,
                "outcome": found[0].outcome,
                "seconds": f"{statistics.median(one.seconds for one in found):.3f}",
                "memory_bytes": memory,
                "memory_ratio": f"{memory / (found[0].declared + SPARE):.2f}",
                "repeats": repeats,
            }
        )
        print(rows[-1], flush=True)
    return rows


def table(rows: Sequence[Row]) -> str:
    """Markdown of the rows."""
    columns = [":file", "bytes", "tensors", "declared, MB", ":", "s", "memory over declared"]
    cells = [
        (
            row["case"],
            f"{int(row['file_bytes']):,}",
            f"{int(row['tensors']):,}",
            f"{int(row['declared_bytes']) / 1e6:,.1f}",
            *(row[key] for key in ("outcome", "seconds", "memory_ratio")),
        )
        for row in rows
    ]
    text = f"{told(rows[0])}; medians of {rows[0]['repeats']} processes.\n\n"
    return text + markdown(columns, cells)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write both tables."""
    parser = argparse.ArgumentParser(description="Load hostile files.")
    parser.add_argument("--bytes", type=int, default=100_000, help="of a file, at most")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        rows = rows_of(Path(folder), options.bytes, options.repeats)
    write_rows("hostile", rows)
    put_table("hostile", table(rows))


if __name__ == "__main__":
    main()
