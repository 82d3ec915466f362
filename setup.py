"""Build the native core; everything else stands in pyproject.toml."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

NATIVE = Path("native")
SOURCES = sorted(
    path.as_posix() for part in ("", "quantize", "python") for path in (NATIVE / part).glob("*.c")
)
HEADERS = sorted(path.as_posix() for path in NATIVE.rglob("*.h"))
# Multiplications and additions are not contracted: the same input gives the same bytes everywhere.
UNIX = ["-std=c99", "-O3", "-g0", "-ffp-contract=off", "-fvisibility=hidden"]
UNIX += ["-Wall", "-Wextra", "-Wconversion"]
MSVC = ["/O2", "/fp:precise", "/W3"]


class BuildNative(build_ext):  # type: ignore[misc] # setuptools has no annotations
    """Compile several files at a time, and say in one sentence what is missing."""

    def build_extensions(self) -> None:
        """Check for a compiler and the headers of Python, then compile."""
        compiler: Any = self.compiler
        unix = compiler.compiler_type != "msvc"  # setuptools itself says that MSVC is missing
        if unix and not shutil.which(compiler.compiler[0]):
            sys.exit(
                f"flyweight needs a C compiler and found no {compiler.compiler[0]!r}; install one "
                "(Debian: apt install build-essential, macOS: xcode-select --install) or set CC, "
                "and try again."
            )
        if not Path(sysconfig.get_path("include"), "Python.h").is_file():
            sys.exit(
                "flyweight needs the headers of Python and found no Python.h in "
                f"{sysconfig.get_path('include')}; install them "
                "(Debian: apt install python3-dev, Fedora: dnf install python3-devel), "
                "and try again."
            )
        for extension in self.extensions:
            extension.extra_compile_args += UNIX if unix else MSVC
            extension.extra_compile_args += os.environ.get("FLYWEIGHT_CFLAGS", "").split()
            extension.extra_link_args += os.environ.get("FLYWEIGHT_LDFLAGS", "").split()
        if unix:
            compile_in_turn = compiler.compile

            def compile_at_once(sources: list[str], **options: Any) -> list[str]:
                with ThreadPoolExecutor(os.cpu_count()) as pool:
                    parts = pool.map(lambda source: compile_in_turn([source], **options), sources)
                    return [name for objects in parts for name in objects]

            compiler.compile = compile_at_once
        super().build_extensions()


setup(
    ext_modules=[
        Extension(
            "flyweight._native",
            SOURCES,
            depends=[*HEADERS, "setup.py"],
            define_macros=[("Py_LIMITED_API", "0x030b0000")],
            py_limited_api=True,
        )
    ],
    cmdclass={"build_ext": BuildNative},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
