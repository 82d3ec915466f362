"""Options that several commands have."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "ArchitectureName",
    "AsJson",
    "Data",
    "Debug",
    "Device",
    "FlyFile",
    "Force",
    "ModelName",
    "OutputFile",
    "Quiet",
    "Seed",
    "TargetBytes",
    "TaskName",
    "from_current_folder",
]


def from_current_folder(path: str | None) -> str | None:
    """Let ``package.module:function`` be found in the current folder."""
    if path and ":" in path and "" not in sys.path:
        sys.path.insert(0, "")
    return path


def size_in_bytes(text: str) -> int:
    """Return the bytes that a size stands for, with 1 kB of 1,000 bytes.

    Example:
        >>> size_in_bytes("20000"), size_in_bytes("20kB"), size_in_bytes("1.5 MB")
        (20000, 20000, 1500000)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(|B|kB|KB|MB)", text.strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is no size; give bytes, as in 20000 or 20kB")
    number, unit = found.groups()
    return round(float(number) * {"": 1, "B": 1, "MB": 1_000_000}.get(unit, 1000))


ArchitectureName = Annotated[
    str | None,
    typer.Option(
        "--architecture",
        metavar="NAME|MODULE:FACTORY",
        help="Network that the file fits: a name, or package.module:factory.",
        callback=from_current_folder,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Data = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder that holds cifar-10-batches-py. Default: download."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Print the traceback of an error.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]
FlyFile = Annotated[Path, typer.Argument(metavar="FILE", help="A .fly file.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an output that exists.")]
ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Pretrained network by name (resnet20), a checkpoint, or package.module:factory.",
        callback=from_current_folder,
    ),
]
OutputFile = Annotated[
    Path, typer.Option("--output", "-o", metavar="FILE", help="The .fly file to write.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print no progress.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of all random numbers.")]
TargetBytes = Annotated[
    int | None,
    typer.Option(
        metavar="SIZE",
        help="Bytes of the file to end with, as 20000 or 20kB.",
        parser=size_in_bytes,
    ),
]
TaskName = Annotated[
    str | None,
    typer.Option(
        "--task",
        metavar="MODULE:FUNCTION",
        help="Function that returns data, loss, evaluate and teacher for flyweight.compress. "
        "Default for networks by name: CIFAR-10.",
        callback=from_current_folder,
    ),
]
