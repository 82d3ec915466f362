"""What people see in a terminal: one progress bar, and tables."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from flyweight.size_report import SizeReport, Row
from flyweight.training import Progress, is_main_process

__all__ = ["ledger_table", "print_rows", "print_table", "progress_bar"]


@contextlib.contextmanager
def progress_bar(*, quiet: bool) -> Iterator[Progress | None]:
    """One progress bar on stderr; none with ``quiet`` or where stderr is not a terminal.

    Of several processes the first one shows it.
    """
    import rich.console
    import rich.progress as bars

    console = rich.console.Console(stderr=True)
    if quiet or not console.is_terminal or not is_main_process():
        yield None
        return
    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.TaskProgressColumn(),
        bars.TimeElapsedColumn(),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=console, transient=True) as display:
        task = display.add_task("", total=None)

        def show(text: str, done: int, total: int | None) -> None:
            display.update(task, description=text, completed=done, total=total)

        yield show


def ledger_table(ledger: SizeReport) -> tuple[list[str], list[list[str]]]:
    """Column names, and a row of text per tensor, per overhead and for the total."""
    parts = ["symbols", "positions", "codebook", "tables", "dense"]
    parts[3:3] = [part for part in ("scales", "offsets") if part in ledger.part_bytes]
    peers = list(ledger.peer_bytes)
    columns = ["tensor", "values", "non-zero", *parts, "header", "bytes", "bound", "over"]
    columns += ["bits/value", *peers]
    rows: list[list[str]] = []
    for row in ledger.rows:
        sizes = [row.part_bytes.get(part, 0) for part in parts]  # type: ignore[call-overload]
        bounds = [row.bound_bytes.get(part, 0.0) for part in parts]  # type: ignore[call-overload]
        cells = [
            f"{size} ({bound:.0f})" if row.encoding == "shared" and part in parts[:2] else str(size)
            for part, size, bound in zip(parts, sizes, bounds, strict=True)
        ]
        name = row.name if row.joined_to is None else f"{row.name} (with {row.joined_to})"
        rows.append([name, *_counts(row), *cells, "", *_totals(row, row.peer_bytes, peers)])
    for name, size in ledger.overhead.items():
        blank = [""] * (2 + len(peers))
        rows.append(
            [f"({name})", *[""] * (2 + len(parts)), str(size), str(size), str(size), *blank]
        )
    sizes = [ledger.part_bytes.get(part, 0) for part in parts]  # type: ignore[call-overload]
    header = str(ledger.overhead_bytes)
    totals = _totals(ledger, ledger.peer_bytes, peers)
    rows.append(["total", *_counts(ledger), *map(str, sizes), header, *totals])
    return columns, rows


def _counts(account: Row | SizeReport) -> list[str]:
    return [str(account.parameters), str(account.nonzeros)]


def _totals(account: Row | SizeReport, sizes: Mapping[str, int], peers: list[str]) -> list[str]:
    return [
        str(account.total_bytes),
        f"{account.total_bound_bytes:.0f}",
        f"{account.over_bound_percent:+.1f}%",
        f"{account.bits_per_weight:.3f}",
        *(str(sizes[peer]) for peer in peers),
    ]


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    """Print a table as plain text, the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        first = row[0].ljust(widths[0])
        rest = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        print("  ".join((first, *rest)).rstrip())


def print_rows(pairs: dict[str, Any]) -> None:
    """Print names and values, one pair a line."""
    width = max(map(len, pairs))
    for name, value in pairs.items():
        print(f"{name.ljust(width)}  {value}")
