"""Report of progress, which long operations call."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Progress"]

Progress = Callable[[str, int, int | None], None]
"""Called with the phase, how much of it is done, and how much there is, None if unknown."""
