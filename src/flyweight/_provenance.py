"""Identify the source code that a result comes from."""

from __future__ import annotations

import functools
import subprocess
from importlib import metadata
from pathlib import Path

__all__ = ["source_commit"]

CODE = [f":(top)*.{suffix}" for suffix in ("py", "toml", "txt", "safetensors")]


@functools.cache
def source_commit() -> str:
    """Return the Git commit of the checkout that this package runs from.

    Returns:
        The commit, followed by ``-dirty`` if tracked code, settings or weights were changed since;
        "version" and the installed version where there is no checkout. It is looked up once.
    """
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        if git("ls-files", "--", Path(__file__).name) == "":
            raise FileNotFoundError
        commit = git("rev-parse", "--short=12", "HEAD")
        return commit + ("-dirty" if git("status", "--porcelain", "-uno", "--", *CODE) else "")
    except (OSError, subprocess.CalledProcessError):
        return f"version {metadata.version('flyweight')}"
