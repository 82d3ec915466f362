"""Choose between loops compiled by Numba and NumPy, by the time that Numba takes to start."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

__all__ = ["loops_for"]

_WORTH_STARTING = 2_000_000  # values, from which starting Numba pays
_WORTH_LOADING = 50_000  # from which the loops pay if Numba has been started anyway
_WORTH_CALLING = 2_000  # and if they are there


def loops_for(module: str, count: int, compiled: bool | None = None) -> ModuleType | None:
    """Return the module of compiled loops if it is to be used for ``count`` values, else None.

    Args:
        module: dotted name of a module that imports Numba.
        count: values to be worked on.
        compiled: True takes the loops for any count, False never.

    Raises ImportError where ``compiled`` is True and Numba is not installed.

    Example:
        >>> loops_for("flyweight.coding.context.kernels", 100) is None
        True
    """
    if compiled is None:
        least = _WORTH_LOADING if "numba" in sys.modules else _WORTH_STARTING
        if count < (_WORTH_CALLING if module in sys.modules else least):
            return None
    elif not compiled:
        return None
    try:
        return import_module(module)
    except ImportError:
        if compiled:
            raise
        return None
