"""Weights and activations of 8 bits in onnxruntime: accuracy, bytes and time beside fp32.

    python -m labs.int8 [--images 512] [--repeats 30] [--data DIR] [--seed 0]

The dense ResNet-20, in PyTorch and exported to ONNX as fp32; then in int8, with ranges measured
on images drawn from the 45,000 training images of CIFAR-10, without labels, and exported as pairs
of QuantizeLinear and DequantizeLinear: once as `prepare_int8` has it, with weights from −63 to 63,
and once from −127 to 127. All are tested on the 10,000 test images on one thread, and timed in turn
on one image and on 128 at once: the median of the repeats, after three to warm up. The int8 rows
also tell the accuracy of the same network simulated in PyTorch. Needs onnx and onnxruntime. Writes
``labs/results/int8.csv`` and the table in ``docs/quantization.md``. Nothing is chosen on the test
images.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn

from benchmarks.report import Row, markdown, put_table, read_rows, write_rows
from flyweight.cifar import Cifar10, accuracy, load_cifar10, normalize
from flyweight.int8 import export_onnx, prepare_int8
from labs.dense import load_pretrained
from labs.options import lab_parser, read_options
from labs.rows import RESULTS, where
from labs.structured import milliseconds

DOCUMENT = Path(__file__).parents[1] / "docs" / "quantization.md"
BATCHES = (1, 128)


class OnnxModule(nn.Module):
    """An ONNX file in onnxruntime, on one thread of the CPU, called like any module."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = settings.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            path, settings, providers=["CPUExecutionProvider"]
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits of N images."""
        (logits,) = self.session.run(None, {"images": images.contiguous().numpy()})
        return torch.from_numpy(logits)


def calibration(data: Cifar10, images: int, seed: int) -> list[Tensor]:
    """Batches of 64 of so many training images."""
    train = data.split("train45k").images
    drawn = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:images]
    return list(normalize(train[drawn]).split(64))


def instructions() -> str:
    """What the processor has for integers, as far as it tells."""
    facts = Path("/proc/cpuinfo")
    flags = facts.read_text().split() if facts.exists() else []
    vnni = "with" if {"avx512_vnni", "avx_vnni"}.intersection(flags) else "without"
    return f"{torch.backends.cpu.get_cpu_capability()} {vnni} VNNI"


def rows_of(data: Cifar10, images: int, repeats: int, seed: int) -> list[Row]:
    """Export, test and time them all."""
    dense = load_pretrained("resnet20").eval()
    batches = calibration(data, images, seed)
    int8 = {
        f"int8, weights to ±{largest}": prepare_int8(dense, batches, reduce_range=largest < 127)
        for largest in (63, 127)
    }
    sizes: dict[str, int] = {}
    models: dict[str, nn.Module] = {"fp32, PyTorch": dense}
    with tempfile.TemporaryDirectory() as folder:
        for name, model in {"fp32": dense, **int8}.items():
            path = Path(folder) / f"{len(sizes)}.onnx"
            export_onnx(model, batches[0][:2], path)
            sizes[f"{name}, ONNX"] = path.stat().st_size
            models[f"{name}, ONNX"] = OnnxModule(path)
    test = data.split("test")
    inputs = normalize(test.images[: max(BATCHES)])
    taken = {size: milliseconds(models, inputs[:size], repeats) for size in BATCHES}
    simulated = {f"{name}, ONNX": accuracy(model, test) for name, model in int8.items()}
    return [
        {
            "network": name,
            "accuracy": accuracy(model, test),
            "accuracy_simulated": simulated.get(name, ""),
            "file_bytes": sizes.get(name, ""),
            **{f"ms_batch_{size}": f"{taken[size][name]:.3f}" for size in BATCHES},
            "repeats": repeats,
            "calibration_images": images if name in simulated else 0,
            "seed": seed,
            "onnxruntime": onnxruntime.__version__,
            "instructions": instructions(),
            **where(torch.device("cpu")),
        }
        for name, model in models.items()
    ]


def machine(row: Row) -> tuple[str, str]:
    """What a row was measured on."""
    return row["device"], row["instructions"]


def tables(rows: Sequence[Row]) -> str:
    """Markdown of the rows, a table for each machine."""
    machines = dict.fromkeys(machine(row) for row in rows)
    return "\n\n".join(table([row for row in rows if machine(row) == m]) for m in machines)


def table(rows: Sequence[Row]) -> str:
    """Markdown of the rows of one machine."""

    def percent(text: object) -> str:
        return f"{100 * float(str(text)):.2f} %" if text != "" else ""

    columns = [":network", "accuracy", "simulated in PyTorch", "file, bytes"]
    columns += [f"ms, {size} at once" for size in BATCHES]
    cells = [
        (
            row["network"],
            percent(row["accuracy"]),
            percent(row["accuracy_simulated"]),
            f"{int(row['file_bytes']):,}" if row["file_bytes"] != "" else "",
            *(row[f"ms_batch_{size}"] for size in BATCHES),
        )
        for row in rows
    ]
    last = rows[-1]
    return (
        f"Ranges of {last['calibration_images']} training images, seed {last['seed']}; medians of "
        f"{last['repeats']} runs; {last['device']}, {last['instructions']}; onnxruntime "
        f"{last['onnxruntime']}; {last['commit']}.\n\n{markdown(columns, cells)}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write both tables; what other machines measured stays."""
    parser = lab_parser("The network in int8 in onnxruntime.", device=None)
    parser.add_argument("--images", type=int, default=512, help="to measure ranges with")
    parser.add_argument("--repeats", type=int, default=30)
    options = read_options(parser, arguments)
    torch.set_num_threads(1)
    rows = rows_of(load_cifar10(options.data), options.images, options.repeats, options.seed)
    print(table(rows), flush=True)
    others = [r for r in read_rows("int8", RESULTS) if machine(r) != machine(rows[0])]
    write_rows("int8", [*others, *rows], RESULTS)
    put_table("labs.int8", tables(read_rows("int8", RESULTS)), DOCUMENT)


if __name__ == "__main__":
    main()
