"""Print results as tables or as JSON."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from flyweight.cli.messages import printable

__all__ = ["print_json", "print_rows", "print_table"]


def print_json(document: Mapping[str, Any]) -> None:
    """Print one line of JSON; numbers that JSON cannot hold become null.

    Example:
        >>> print_json({"ratio": math.inf, "bytes": 5})
        {"ratio": null, "bytes": 5}
    """
    print(json.dumps(_finite(document), allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_rows(pairs: Mapping[str, object]) -> None:
    """Print names and values, one pair a line.

    Example:
        >>> print_rows({"file": "a.fly", "file bytes": "1,024"})
        file        a.fly
        file bytes  1,024
    """
    _print([], [[name, value] for name, value in pairs.items()], numbers_from=2)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table with its first column to the left and numbers to the right.

    Lines fit the terminal, and 80 columns elsewhere: a long name takes several lines, a number
    is never broken.

    Example:
        >>> print_table(["tensor", "bytes"], [["conv1.weight", 512], ["total", 1024]])
        tensor        bytes
        conv1.weight    512
        total          1024
    """
    _print(columns, rows, numbers_from=1)


def _print(columns: Sequence[str], rows: Sequence[Sequence[object]], *, numbers_from: int) -> None:
    import rich.console
    import rich.table
    import rich.text

    console = rich.console.Console(highlight=False, markup=False, emoji=False)
    table = rich.table.Table(
        box=None, pad_edge=False, show_header=bool(columns), padding=(0, 2, 0, 0)
    )
    width = len(columns) or 2
    for place in range(width):
        number = place >= numbers_from
        table.add_column(
            columns[place] if columns else "",
            justify="right" if number else "left",
            no_wrap=number or (place == 0 and not columns),
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(rich.text.Text(printable(cell)) for cell in row))
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():
        print(line.rstrip(), file=sys.stdout)
