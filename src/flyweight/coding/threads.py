"""Process the pieces of a stream on several threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["cores", "in_threads"]

_Piece = TypeVar("_Piece")
_Result = TypeVar("_Result")


def cores() -> int:
    """Return how many cores this process may use."""
    own = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(own(0)) if own else os.cpu_count() or 1


def in_threads(
    work: Callable[[_Piece], _Result], pieces: Iterable[_Piece], threads: int | None
) -> list[_Result]:
    """Return ``work`` of each piece, in order, done by so many threads (None: one a core)."""
    todo = list(pieces)
    threads = min(threads or cores(), len(todo))
    if threads < 2:
        return [work(piece) for piece in todo]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, todo))
