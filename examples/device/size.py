"""Measure the C reader on a Cortex-M4 and write the tables of README.md: ``make size``.

Code is what the linker keeps of a program that opens a file and decodes a tensor, the C library and
the compiler's included. Stack is the deepest chain of calls by GCC's own account. The other memory
is what the functions ask for, told by a 32-bit program under QEMU. Needs arm-none-eabi-gcc,
arm-linux-gnueabihf-gcc and qemu-arm, and flyweight for the files.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from flyweight.coding import encode_dense, encode_shared
from flyweight.format import Container, dumps

HERE = Path(__file__).parent
NATIVE = HERE.parents[1] / "native"
SOURCES = [path for path in NATIVE.glob("*.c") if not path.stem.endswith("_encode")]
DEVICE = ["-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16", "-Os", "-std=c99"]
DEVICE += ["-ffp-contract=off", "-ffunction-sections", "-fdata-sections", "-fcallgraph-info=su"]
LINK = ["--specs=nano.specs", "--specs=nosys.specs", "-nostartfiles", "-Wl,--gc-sections,-emain"]
LINK += [
    f"-Wl,--defsym={name}=0x20000000" for name in ("model", "index_memory", "workspace", "weights")
]
PARTS = ("HUFFMAN", "RANS", "CONTEXT", "PLANES", "SPARSE", "GROUPS", "DOUBLE")
CONFIGURATIONS = {
    "everything": PARTS,
    "Huffman, rANS, context": PARTS[:3],
    "context only": ("HUFFMAN", "CONTEXT"),
    "rANS only": ("HUFFMAN", "RANS"),
    "Huffman only": ("HUFFMAN",),
}


def model(coder: str) -> bytes:
    """Return a file of the ResNet-20 that comes with flyweight, weights on at most 15 levels."""
    tensors = []
    path = HERE.parents[1] / "src/flyweight/cifar/pretrained/resnet20.safetensors"
    for name, values in load_file(path).items():
        if values.ndim < 2:
            tensors.append(encode_dense(name, values, dtype=values.dtype.name))
            continue
        step = 2.5 * values.std() / 7
        integers = np.clip(np.rint(values / step), -7, 7)
        levels = np.unique(integers[integers != 0])
        symbols = np.where(integers == 0, 0, np.searchsorted(levels, integers) + 1)
        levels = (levels * np.float16(step)).astype("f2").astype("f4")
        tensors.append(encode_shared(name, symbols, levels=levels, coder=coder))
    return dumps(Container(tensors=tuple(tensors)))


def run(*command: object) -> str:
    return subprocess.run([*map(str, command)], check=True, capture_output=True, text=True).stdout


def measure(parts: tuple[str, ...], folder: Path) -> tuple[int, int]:
    """Return the bytes of code, and of stack, of a configuration."""
    left_out = [f"-DFLY_NO_{part}" for part in PARTS if part not in parts]
    sources = [HERE / "firmware.c", *SOURCES]
    for source in sources:
        run(
            "arm-none-eabi-gcc",
            *DEVICE,
            *left_out,
            f"-I{NATIVE}",
            "-c",
            source,
            "-o",
            folder / f"{source.stem}.o",
        )
    objects = [folder / f"{source.stem}.o" for source in sources]
    run("arm-none-eabi-gcc", *DEVICE, *objects, *LINK, "-o", folder / "firmware.elf")
    code = int(run("arm-none-eabi-size", folder / "firmware.elf").splitlines()[1].split()[0])
    graph = "".join(path.read_text() for path in folder.glob("*.ci"))
    frames = {
        name: int(size)
        for name, size in re.findall(r'node: { title: "([^"]+)" label: "[^"]*?(\d+) bytes', graph)
    }
    calls: dict[str, set[str]] = {}
    for caller, callee in re.findall(r'sourcename: "([^"]+)" targetname: "([^"]+)"', graph):
        calls.setdefault(caller, set()).add(callee)

    @functools.cache
    def depth(name: str) -> int:
        return frames.get(name, 0) + max(map(depth, calls.get(name, ())), default=0)

    return code, depth("main")


def tables() -> str:
    """Return the two tables, in Markdown."""
    for tool in ("arm-none-eabi-gcc", "arm-linux-gnueabihf-gcc", "qemu-arm"):
        if shutil.which(tool) is None:
            sys.exit(
                f"{tool} is missing; install it (Debian: gcc-arm-none-eabi, "
                "gcc-arm-linux-gnueabihf, qemu-user) and try again."
            )
    lines = ["| decoders | code, bytes | stack, bytes |", "|---|---|---|"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for title, parts in CONFIGURATIONS.items():
            code, stack = measure(parts, folder)
            lines.append(f"| {title} | {code:,} | {stack:,} |")
        sources = [HERE / "host.c", *SOURCES]
        run(
            "arm-linux-gnueabihf-gcc",
            "-static",
            "-O2",
            "-std=c99",
            f"-I{NATIVE}",
            *sources,
            "-o",
            folder / "host",
        )
        lines += [
            "",
            "| coder | file, bytes | index, bytes | workspace, bytes |",
            "|---|---|---|---|",
        ]
        for coder in ("huffman", "rans", "context"):
            data = model(coder)
            (folder / "model.fly").write_bytes(data)
            told = subprocess.run(
                ["qemu-arm", folder / "host", folder / "model.fly"],
                check=True,
                capture_output=True,
                text=True,
            ).stderr
            index, workspace, _ = map(int, re.findall(r"\d+", told))
            lines.append(f"| {coder} | {len(data):,} | {index:,} | {workspace:,} |")
    return "\n".join(lines)


if __name__ == "__main__":
    path = HERE / "README.md"
    before, _, rest = path.read_text(encoding="utf-8").partition("<!-- size -->\n")
    _, _, after = rest.partition("\n<!-- end -->")
    path.write_text(f"{before}<!-- size -->\n{tables()}\n<!-- end -->{after}", encoding="utf-8")
