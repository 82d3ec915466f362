"""What the exercises share: named rows, made where they are missing, and states of training."""

from __future__ import annotations

import datetime
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

import torch

from benchmarks.report import Row, put_table, read_rows, write_rows
from flyweight._provenance import source_commit
from flyweight.training import describe_device

RESULTS = Path(__file__).parent / "results"
STATES = Path.home() / ".cache" / "flyweight" / "labs"


class Named(Protocol):
    """An exercise: a row of a table."""

    @property
    def name(self) -> str:
        """Of the row: the table, a space, and the rest."""


Exercise = TypeVar("Exercise", bound=Named)


def where(device: torch.device) -> Row:
    """On what, at which commit and when a row is measured."""
    return {
        "device": describe_device(device),
        "commit": source_commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def origin(seed: int, device: torch.device, begin: float, *, whole: bool = True) -> Row:
    """Where a row comes from: its last columns.

    Minutes are those since ``begin``; the cell is blank where these are not the ``whole`` of what
    the row took, since its training began in another run.
    """
    minutes = round((time.perf_counter() - begin) / 60, 1) if whole else ""
    return {"seed": seed, "minutes": minutes, **where(device)}


def is_begun(lab: str, row: str) -> bool:
    """Whether the folder that `states` gives holds a state of training to go on from."""
    return any(_folder(lab, row).rglob("*.pt"))


def _folder(lab: str, row: str) -> Path:
    return STATES / lab / source_commit() / row.replace(" ", "-")


@contextmanager
def states(lab: str, row: str) -> Iterator[Path]:
    """A folder for states of training of a row, which goes when that is done.

    Another commit, another row and another lab do not go on from them.
    """
    folder = _folder(lab, row)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def wanted(names: Sequence[str], every: Sequence[Exercise]) -> list[Exercise]:
    """The exercises that are named, themselves or by their table; all if none is."""
    chosen = [
        exercise
        for exercise in every
        if not names or exercise.name in names or exercise.name.partition(" ")[0] in names
    ]
    if not chosen:
        known = ", ".join(exercise.name for exercise in every)
        raise SystemExit(f"none of {', '.join(names)} is a row; known are {known}")
    return chosen


def fill(
    lab: str,
    exercises: Sequence[tuple[Exercise, int]],
    order: Sequence[Named],
    *,
    make: Callable[[Exercise, int], Row],
    tables: Callable[[Sequence[Row]], str],
    document: Path,
) -> None:
    """Make each row that is not there with as many epochs, and rewrite file and tables after it.

    Another process may make other rows meanwhile.
    """
    for exercise, epochs in exercises:
        there = {row["row"]: row for row in read_rows(lab, RESULTS)}
        if exercise.name in there and int(there[exercise.name]["epochs"]) >= epochs:
            continue
        made = make(exercise, epochs)
        print(made, flush=True)
        rows = {row["row"]: row for row in read_rows(lab, RESULTS)} | {exercise.name: made}
        ordered = [rows[other.name] for other in order if other.name in rows]
        write_rows(lab, ordered, RESULTS)
        put_table(f"labs.{lab}", tables(ordered), document)
