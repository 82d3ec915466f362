"""Print results as a table or as JSON."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Mapping
from typing import Any

from flyweight._tables import format_pairs

__all__ = ["print_json", "print_rows"]


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
    """Print names and values, one pair a line, as wide as the terminal, or 80 columns elsewhere.

    Example:
        >>> print_rows({"file": "a.fly", "file bytes": "1,024"})
        file        a.fly
        file bytes  1,024
    """
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 80
    print(format_pairs(pairs, width=width))
