"""Reuse of freed memory by the C library."""

from __future__ import annotations

import contextlib
import ctypes
import os

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of mallopt in malloc.h


def keep_freed_memory() -> None:
    """Configure the C library of this process to keep freed memory for the next allocation.

    On Linux a training step on the CPU otherwise spends much of its time on page faults, since
    freed memory returns to the system. For programs, not for libraries: the process stays at its
    peak of memory. Has no effect where the C library is not glibc.

    Source: mallopt(3); THP_MEM_ALLOC_ENABLE is torch's own switch for huge pages.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_TOP_PAD, 2**28)
