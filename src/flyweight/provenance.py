"""Where a result comes from: the exact source that made it."""

from __future__ import annotations

import subprocess
from importlib import metadata
from pathlib import Path

__all__ = ["source_commit"]


def source_commit() -> str:
    """Git commit of the checkout this package runs from, ``-dirty`` with uncommitted changes to
    tracked files; the installed version where there is no checkout."""
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        if git("ls-files", "--", Path(__file__).name) == "":
            raise FileNotFoundError
        commit = git("rev-parse", "--short=12", "HEAD")
        return commit + ("-dirty" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return f"version {metadata.version('flyweight')}"
