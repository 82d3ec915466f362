"""Turn errors into one line of text."""

from __future__ import annotations

import re
from collections.abc import Mapping

from flyweight.errors import FlyweightError

__all__ = ["sentence", "with_option_names"]


def sentence(error: BaseException | str) -> str:
    """Return an error as one line: that of flyweight as it is, another one with its type.

    Example:
        >>> sentence(FileNotFoundError(2, "No such file or directory", "a.fly"))
        'a.fly: No such file or directory'
        >>> sentence(ZeroDivisionError("division by zero"))
        'division by zero (ZeroDivisionError); repeat the command with --debug for the traceback'
    """
    text = " ".join(str(error).split())
    if isinstance(error, FlyweightError | Warning | str):
        return text
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename is not None else ""
        return f"{place}{error.strerror}"
    if isinstance(error, MemoryError):
        return "out of memory; close other programs, or use a smaller model or batch size"
    kind = type(error).__name__
    problem = f"{text.rstrip('.')} ({kind})" if text else f"unexpected {kind}"
    return f"{problem}; repeat the command with --debug for the traceback"


def with_option_names(text: str, options: Mapping[str, str]) -> str:
    """Replace the keyword arguments that an error advises by the options of a command.

    Args:
        text: such as "give model= or architecture=" or "pass its `architecture`".
        options: from the names of arguments to those of options. Of alternatives, arguments
            that are no options are left out, also at the end of a sentence: ", or name=value …".

    Example:
        >>> with_option_names("a.fly exists already; pass force=True", {"force": "--force"})
        'a.fly exists already; pass --force'
        >>> with_option_names("give model= or architecture=", {"architecture": "--architecture"})
        'give --architecture'
        >>> with_option_names("use its model, or strict=False to ignore this", {})
        'use its model'
    """
    for name, option in options.items():
        text = re.sub(rf"(?<![\w-])(`{name}`|{name}=(True|(?!\w)))", option, text)
    text = re.sub(r"\b\w+= or (?=--)", "", text)
    text = re.sub(r", or \w+=\w+( to [^;]*)?$", "", text)
    return re.sub(r"(--[\w-]+) or \w+=(?!\w)", r"\1", text)
