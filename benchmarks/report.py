"""Rows with their origin, CSV files of them, and tables between two marks of a document."""

from __future__ import annotations

import csv
import datetime
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from flyweight._provenance import source_commit
from flyweight.coding.threads import cores
from flyweight.training.precision import describe_device

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parents[1] / "docs" / "benchmarks.md"
END = "<!-- end of results -->"

Row = dict[str, Any]


def origin() -> Row:
    """Where and when a row is measured: its first columns."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": source_commit(),
        "cpu": describe_device(torch.device("cpu")).rpartition(",")[0],
        "cores": cores(),
    }


def told(row: Row) -> str:
    """The origin of a row, as a table tells it."""
    return f"{row['cpu']}, {row['cores']} core(s), commit {row['commit']}, {row['date']}"


def read_rows(name: str, folder: Path | None = None) -> list[Row]:
    """All rows of a benchmark; none if it has not been run."""
    path = (folder or RESULTS) / f"{name}.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_rows(name: str, rows: Sequence[Row], folder: Path | None = None) -> None:
    """Replace the rows of a benchmark, all or none; a row may lack columns of another."""
    folder = folder or RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path = folder / f"{name}.csv"
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(text.getvalue(), encoding="utf-8", newline="")
    partial.replace(path)


def append_rows(name: str, rows: Sequence[Row]) -> None:
    """Add rows to those that a benchmark has."""
    write_rows(name, [*read_rows(name), *rows])


def markdown(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; a column whose name begins with a colon is of text, the others are of numbers."""

    def line(cells: Iterable[object]) -> str:
        return "".join(f"| {cell} ".replace("  ", " ") for cell in cells) + "|"

    rules = ["---" if column.startswith(":") else "---:" for column in columns]
    heads = line(column.removeprefix(":") for column in columns)
    return "\n".join([heads, f"|{'|'.join(rules)}|", *map(line, rows)])


def put_table(name: str, table: str, document: Path | None = None) -> None:
    """Put a table between the marks of a benchmark, in ``docs/benchmarks.md`` or elsewhere.

    ``name`` is that of a benchmark, or of a module such as ``labs.pruning``.
    """
    document = document or DOCS
    module = name if "." in name else f"benchmarks.{name}"
    mark = f"<!-- results: python -m {module} -->"
    before, _, rest = document.read_text(encoding="utf-8").partition(mark)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"{document} has no marks for the results of {module}")
    text = f"{before}{mark}\n{table.strip()}\n{END}{after}"
    document.write_text(text, encoding="utf-8")
