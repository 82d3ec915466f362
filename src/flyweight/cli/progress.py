"""Show the progress of a command on stderr."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from flyweight._tables import printable

__all__ = ["Progress", "display"]

Progress = Callable[[str, int, int | None], None]
"""Called with the phase, how much of it is done, and how much there is, or None if unknown."""


@contextlib.contextmanager
def display(*, quiet: bool) -> Iterator[Progress | None]:
    """Show one bar on a terminal, and one line for each phase and epoch elsewhere.

    With ``quiet``, and in all processes but the first, nothing is shown.
    """
    from flyweight.processes import is_main_process

    if quiet or not is_main_process():
        yield None
    elif sys.stderr is not None and sys.stderr.isatty():
        with _bar() as show:
            yield show
    else:
        yield _Lines()


@contextlib.contextmanager
def _bar() -> Iterator[Progress]:
    import rich.console
    import rich.progress as bars

    columns = (
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        bars.TaskProgressColumn(),
        bars.TimeElapsedColumn(),
        bars.TimeRemainingColumn(),
    )
    console = rich.console.Console(stderr=True)
    with bars.Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("start", total=None)

        def show(text: str, done: int, total: int | None) -> None:
            bar.update(task, description=printable(text), completed=done, total=total)

        yield show


class _Lines:
    """Print each new phase once."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, text: str, done: int, total: int | None) -> None:
        if text != self._last:
            print(f"flyweight: {printable(text)}", file=sys.stderr, flush=True)
            self._last = text
