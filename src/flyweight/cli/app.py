"""The ``flyweight`` program: its commands, and the one place that reports errors."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from flyweight._tables import printable
from flyweight.cli.command import Command, StoppedError
from flyweight.cli.file_commands import compress_checkpoint, decompress, inspect
from flyweight.cli.messages import sentence
from flyweight.cli.model_commands import compress, evaluate
from flyweight.cli.train_command import train

__all__ = ["app", "run"]

app = typer.Typer(
    name="flyweight",
    help="Compress neural networks: prune, quantize, encode, and measure the file.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for function in (compress, compress_checkpoint, decompress, inspect, evaluate, train):
    app.command(cls=Command)(function)


def _print_version(asked: bool) -> None:
    if asked:
        from flyweight import __version__

        print(f"flyweight {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Compress neural networks: prune, quantize, encode, and measure the file."""


def run() -> None:
    """Run the program on the arguments of the process.

    Any error becomes one sentence on stderr and exit code 2, and Ctrl-C exit code 130; with
    ``--debug`` the traceback comes first. Of several processes that train together only the first
    one prints, and each reports its own errors.
    """
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _print_warning
            _prepare_streams()
            try:
                app(prog_name="flyweight")
            finally:
                _flush_stdout()
    except SystemExit as stop:
        if stop.code != 130:
            raise
        _fail("stopped", 130)  # by Ctrl-C outside of a command
    except (KeyboardInterrupt, StoppedError) as stop:
        _fail(str(stop) or "stopped", 130)
    except BrokenPipeError:  # whoever read stdout has ended, as `head` does
        sys.exit(1)
    except Exception as error:
        _fail(sentence(error), 2)


def _is_main_process() -> bool:
    if os.environ.get("RANK", "0") == "0":
        return True  # the usual case, without the import of torch
    from flyweight.processes import is_main_process

    return is_main_process()


def _prepare_streams() -> None:
    """Let stdout print any text whatever its encoding, and only in the first process."""
    if sys.stdout is None or not _is_main_process():
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - until the process ends
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _fail(text: str, code: int) -> None:
    if "--debug" in sys.argv[1:]:
        traceback.print_exc()
    print(f"flyweight: {printable(text)}", file=sys.stderr)
    sys.exit(code)


def _flush_stdout() -> None:
    """Raise OSError now for what cannot be printed, on a full disk say, instead of losing it."""
    try:
        sys.stdout.flush()
    except OSError as error:
        with contextlib.suppress(OSError, AttributeError):  # what is buffered is discarded
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - until the process ends
        raise OSError(error.errno, error.strerror, "stdout") from error


def _print_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    if _is_main_process():
        print(f"flyweight: {printable(sentence(message))}", file=sys.stderr)
