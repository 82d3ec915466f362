"""Keep the memory of one training step for the next."""

from __future__ import annotations

import contextlib
import ctypes
import os

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of mallopt in malloc.h


def keep_freed_memory() -> None:
    """Tell the C library of this process not to give freed memory back to the system.

    On Linux a training step on the CPU otherwise spends a good part of its time on getting the
    same pages again, one by one. For programs, not for libraries: the process keeps as much as it
    once needed. Does nothing where the C library is not glibc.

    Source: mallopt(3); THP_MEM_ALLOC_ENABLE is torch's own switch for huge pages.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_TOP_PAD, 2**28)
