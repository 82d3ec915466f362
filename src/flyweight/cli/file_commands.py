"""Commands that need files alone: no network, no data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flyweight.cli.command import describing_stop
from flyweight.cli.options import (
    ArchitectureName,
    AsJson,
    Debug,
    FlyFile,
    Force,
    OutputFile,
    Quiet,
)
from flyweight.cli.outputs import check_fly_output, check_input, check_no_stream
from flyweight.cli.progress import display
from flyweight.cli.tables import print_json, print_rows
from flyweight.errors import RecipeError

__all__ = ["compress_checkpoint", "decompress", "inspect"]


def compress_checkpoint(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="The checkpoint.")],
    output: OutputFile,
    bits: Annotated[
        int | None,
        typer.Option(
            help="Quantize with the precision of 2^bits levels, 1 to 8: float tensors of 2 or more "
            "dimensions and at least 4,096 elements. The others are stored bit for bit."
        ),
    ] = None,
    lossless: Annotated[
        bool, typer.Option("--lossless", help="Store every tensor bit for bit.")
    ] = False,
    grid: Annotated[
        str | None,
        typer.Option(help="With --bits: auto (default, the smallest), kmeans or uniform."),
    ] = None,
    effort: Annotated[
        str | None, typer.Option(help="With --bits: fast, balanced (default) or smallest.")
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compress weights without network and data.

    SOURCE is a .safetensors file, the index of a sharded one, a folder with either, or a torch
    state dict.
    """
    if lossless and bits is not None:
        raise RecipeError("--bits has no effect with --lossless; leave one of them out")
    for option, value in (("--grid", grid), ("--effort", effort)):
        if lossless and value is not None:
            raise RecipeError(f"{option} has no effect with --lossless; leave it out")
    if not lossless and bits is None:
        raise RecipeError(
            "the size is not given; choose --bits N with N from 1 to 8, or --lossless"
        )
    check_input(source)
    check_fly_output(output, inputs=[source], force=force)
    import flyweight
    from flyweight.training import keep_freed_memory

    keep_freed_memory()
    with (
        describing_stop(lambda: f"stopped; {output} was not written"),
        display(quiet=quiet) as progress,
    ):
        report = flyweight.compress_checkpoint(
            source,
            output,
            bits=bits,
            grid=grid,
            effort=effort,
            force=force,
            progress=progress,
        )
    if as_json:
        print_json(report.to_dict())
        return
    rate = report.tensor_bytes / 1e6 / max(report.seconds, 1e-9)
    rule = {"quantized": "float tensors of 2+ dimensions and 4,096+ elements"} if bits else {}
    print_rows(
        {
            "file": output,
            "tensor bytes": f"{report.tensor_bytes:,}",
            "file bytes": f"{report.file_bytes:,}",
            "compression ratio": f"{report.tensor_ratio:.2f}x (tensors over the whole file)",
            "tensors": f"{report.tensors}, {report.quantized} quantized, the others lossless",
            **rule,
            "run": f"{report.seconds:.1f} s, {rate:.0f} MB/s",
        }
    )


def decompress(
    file: FlyFile,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="The .safetensors file to write."),
    ],
    architecture: ArchitectureName = None,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Decompress a file to .safetensors."""
    check_input(file)
    check_no_stream(output)
    import flyweight

    with (
        describing_stop(lambda: f"stopped; {output} was not written"),
        display(quiet=quiet) as progress,
    ):
        result = flyweight.decompress(
            file, output, architecture=architecture, force=force, progress=progress
        )
    if as_json:
        print_json(result)
        return
    rows = {"file": output, "tensors": result["tensors"], "file bytes": f"{result['bytes']:,}"}
    print_rows(rows)


def inspect(
    file: FlyFile,
    architecture: ArchitectureName = None,
    peers: Annotated[
        bool, typer.Option("--peers", help="Add the sizes with fp32, fp16, zstd and xz.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Show the size of every part of a file."""
    check_input(file)
    import flyweight

    with describing_stop(lambda: "stopped"):
        report = flyweight.inspect(file, architecture=architecture, peers=peers)
    if as_json:
        print_json(report.to_dict())
        return
    print(report)
