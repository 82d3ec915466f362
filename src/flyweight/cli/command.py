"""One command of the program, and how its function ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from typer.core import TyperCommand

from flyweight.cli.messages import with_option_names
from flyweight.errors import FlyweightError

__all__ = ["Command", "StoppedError", "describing_stop", "states_in"]


class StoppedError(Exception):
    """Raised when Ctrl-C ends a command; its text says what state is on disk."""


class Command(TyperCommand):
    """Report how the function of a command ends.

    Errors name the options of this command instead of arguments in Python, Ctrl-C becomes
    `StoppedError`, and a user's module that calls `sys.exit` does not end the program silently.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise StoppedError("stopped; nothing was written") from stop
        except SystemExit as stop:
            raise FlyweightError(
                f"the code of --task or --architecture calls sys.exit({stop.code!r}); remove that "
                'call, or put it under if __name__ == "__main__":'
            ) from stop
        except FlyweightError as error:
            options = {
                parameter.name: option
                for parameter in self.params
                for option in parameter.opts
                if option.startswith("--")
            }
            raise type(error)(with_option_names(str(error), options)) from error


@contextmanager
def describing_stop(describe: Callable[[], str]) -> Iterator[None]:
    """Say on Ctrl-C what state is on disk then.

    Example:
        >>> with describing_stop(lambda: "stopped; out.fly was not written"):
        ...     raise KeyboardInterrupt
        Traceback (most recent call last):
        flyweight.cli.command.StoppedError: stopped; out.fly was not written
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        raise StoppedError(describe()) from stop


def states_in(folder: Path) -> dict[Path, int]:
    """Return the states of training in a folder, each with the time when it was written."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("**/*.pt")}
