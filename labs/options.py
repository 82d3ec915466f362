"""The options that the exercises share, and what each of them does before it begins."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from flyweight._provenance import source_commit
from flyweight.training import keep_freed_memory

__all__ = ["lab_parser", "read_options"]


def lab_parser(
    description: str,
    *,
    rows: bool = False,
    epochs: int | None = None,
    short: int | None = None,
    device: str | None = "auto",
    seed: int | None = 0,
) -> argparse.ArgumentParser:
    """A parser with ``--data`` and what else is asked for, by its default.

    Arguments:
        description: of the exercise, for ``--help``.
        rows: whether rows can be named.
        epochs: of all rows, or of the key rows where there are ``short`` ones; with ``rows``,
            ``--compile`` comes with it.
        short: epochs of the other rows.
        device: None for an exercise that is of the CPU alone.
        seed: None for an exercise that draws nothing.

    Example:
        >>> lab_parser("Some table.", epochs=20).parse_args(["--epochs", "3"]).epochs
        3
    """
    parser = argparse.ArgumentParser(description=description)
    if rows:
        parser.add_argument("rows", nargs="*", help="all if none is named")
    if epochs is not None:
        of_which = "of the key rows" if short is not None else "of training"
        parser.add_argument("--epochs", type=int, default=epochs, help=of_which)
    if short is not None:
        parser.add_argument("--short", type=int, default=short, help="epochs of the others")
    if rows and epochs is not None:
        parser.add_argument("--compile", action="store_true", help="fuse operations; faster")
    if device is not None:
        parser.add_argument("--device", default=device)
    parser.add_argument("--data", type=Path, help="folder that holds cifar-10-batches-py")
    if seed is not None:
        parser.add_argument("--seed", type=int, default=seed)
    return parser


def read_options(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None
) -> argparse.Namespace:
    """Read the options, then ready the process: rows tell the commit of the code that it loaded."""
    options = parser.parse_args(arguments)
    keep_freed_memory()
    source_commit()  # of the code that runs, whatever is edited meanwhile
    return options
