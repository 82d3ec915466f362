"""Build the native core; everything else stands in pyproject.toml."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

NATIVE = Path("native")
SOURCES = sorted(map(str, [*NATIVE.glob("*.c"), *(NATIVE / "quantize").glob("*.c"), *(NATIVE / "python").glob("*.c")]))
HEADERS = sorted(map(str, NATIVE.rglob("*.h")))


class BuildNative(build_ext):
    """Build the extension, and say in one sentence what is missing where that fails."""

    def build_extensions(self) -> None:
        unix = self.compiler.compiler_type == "unix"
        if unix and not shutil.which(self.compiler.compiler[0]):
            sys.exit(
                f"flyweight needs a C compiler and found no {self.compiler.compiler[0]!r}; "
                "install one (Debian: apt install gcc, macOS: xcode-select --install) and try again."
            )
        if not Path(sysconfig.get_path("include"), "Python.h").is_file():
            sys.exit(
                "flyweight needs the headers of Python and found no Python.h; "
                "install them (Debian: apt install python3-dev) and try again."
            )
        flags = ["-std=c99", "-O3", "-Wall", "-Wextra", "-Wconversion"] if unix else ["/O2", "/W3"]
        flags += os.environ.get("FLYWEIGHT_CFLAGS", "").split()
        for extension in self.extensions:
            extension.extra_compile_args += flags
            extension.extra_link_args += os.environ.get("FLYWEIGHT_LDFLAGS", "").split()
        super().build_extensions()


setup(
    ext_modules=[
        Extension(
            "flyweight._native",
            SOURCES,
            depends=HEADERS,
            define_macros=[("Py_LIMITED_API", "0x030b0000")],
            py_limited_api=True,
        )
    ],
    cmdclass={"build_ext": BuildNative},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
