"""Format tables of text, the same for reports in Python and on the command line."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

__all__ = ["format_pairs", "format_table", "printable"]


def printable(value: object) -> str:
    r"""Return text without control characters, which could steer a terminal.

    Example:
        >>> printable("a\x1b[31mb\n")
        'a\\x1b[31mb\\n'
    """
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def format_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    text_columns: int = 1,
    width: int = 80,
) -> str:
    """Format a table with text to the left and numbers to the right.

    Args:
        columns: their names; none for a table without a head.
        rows: cells of each row, as many as there are columns.
        text_columns: how many columns, from the left, are text. A long text takes several lines;
            a number is never broken.
        width: of the longest line, in characters.

    Example:
        >>> print(format_table(["tensor", "bytes"], [["conv1.weight", 512], ["total", 1024]]))
        tensor        bytes
        conv1.weight    512
        total          1024
    """
    import rich.console
    import rich.table
    import rich.text

    table = rich.table.Table(
        box=None, pad_edge=False, show_header=bool(columns), padding=(0, 2, 0, 0)
    )
    for place in range(len(columns) or max(map(len, rows), default=0)):
        number = place >= text_columns
        table.add_column(
            columns[place] if columns else "",
            justify="right" if number else "left",
            no_wrap=number or (place == 0 and not columns),
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(rich.text.Text(printable(cell)) for cell in row))
    file = io.StringIO()
    rich.console.Console(file=file, width=width, color_system=None, legacy_windows=False).print(
        table
    )
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def format_pairs(pairs: Mapping[str, object], *, width: int = 80) -> str:
    """Format names and values, one pair a line.

    Example:
        >>> print(format_pairs({"file": "a.fly", "file bytes": "1,024"}))
        file        a.fly
        file bytes  1,024
    """
    return format_table([], [[*pair] for pair in pairs.items()], text_columns=2, width=width)
