"""Compile loops with Numba, and cache the machine code on disk where possible."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from typing import Any, TypeVar

import numba  # type: ignore[import-untyped, import-not-found, unused-ignore]

__all__ = ["compiled", "kernel"]

_Kernel = TypeVar("_Kernel", bound=Callable[..., Any])


_machines: dict[Callable[..., Any], Callable[..., Any]] = {}
_lock = Lock()  # two threads that need the same loop wait for one compiler


def compiled(loop: Callable[..., Any], signature: str) -> Callable[..., Any]:
    """Return a loop over arrays and integers as machine code that runs without the GIL.

    Args:
        loop: in the part of Python that Numba compiles. What it calls has to stand in the same
            file, since the cache is renewed when that file changes, and only then.
        signature: what it returns and takes, in Numba's notation.
    """
    with _lock:
        if loop not in _machines:
            _machines[loop] = _compile(loop, signature)
        return _machines[loop]


def _compile(loop: Callable[..., Any], signature: str) -> Callable[..., Any]:
    try:
        machine: Callable[..., Any] = numba.njit(signature, nogil=True, cache=True)(loop)
    except Exception:  # no folder to cache in, or a damaged cache: neither is worth failing for
        machine = numba.njit(signature, nogil=True)(loop)
    return machine


def kernel(function: _Kernel) -> _Kernel:
    """Compile a function at its first call with arguments of each type, without the GIL."""
    machine: Any = numba.njit(nogil=True)(function)
    with suppress(OSError, RuntimeError):
        machine.enable_caching()
    return machine  # type: ignore[no-any-return]
