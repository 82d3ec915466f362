"""Build the native core with the address and undefined-behavior sanitizers."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

__all__ = ["ROOT", "build_extension", "build_program", "environment", "use_extension"]

ROOT = Path(__file__).parents[2]
BUILDS = ROOT / "runs" / "sanitized"
EXTENSION = BUILDS / "flyweight" / "_native.abi3.so"
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g")


def build_extension() -> None:
    """Compile the extension module; it is not the one that users import."""
    flags = " ".join(SANITIZERS)
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "-f", "-b", BUILDS, "-t", BUILDS / "temp"],
        cwd=ROOT,
        env=os.environ | {"FLYWEIGHT_CFLAGS": f"-O1 {flags}", "FLYWEIGHT_LDFLAGS": flags},
        check=True,
    )


def environment() -> dict[str, str]:
    """Environment of a Python that can load the extension."""

    def library(name: str) -> str:
        found = subprocess.run(
            ["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True
        )
        return found.stdout.strip()

    options = "detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=1024"
    return os.environ | {
        "LD_PRELOAD": f"{library('libasan.so')} {library('libstdc++.so')}",
        "ASAN_OPTIONS": f"{options}:quarantine_size_mb=32",
        "FLYWEIGHT_SANITIZED": "1",
    }


def use_extension() -> None:
    """Let `flyweight` import what `build_extension` made; to be called before that import."""
    spec = importlib.util.spec_from_file_location("flyweight._native", EXTENSION)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["flyweight._native"] = module


def build_program(source: str, *flags: str, compiler: str = "cc") -> Path:
    """Compile a program of ``native/fuzz`` with the decoders, if it is older than they are.

    Raises `OSError` where there is no such compiler, or it has no sanitizers.
    """
    BUILDS.mkdir(parents=True, exist_ok=True)
    program = BUILDS / Path(source).stem
    command = [compiler, "-std=c99", "-O2", *SANITIZERS]
    least = [*command, "-x", "c", "-", "-o", BUILDS / "probe"]
    probe = subprocess.run(least, input=b"int main(void) { return 0; }", check=False)
    if probe.returncode:
        raise OSError(f"{compiler} has no sanitizers")
    native = ROOT / "native"
    decoders = [path for path in sorted(native.glob("*.c")) if "encode" not in path.name]
    files = [native / "fuzz" / source, *decoders]
    newest = max(path.stat().st_mtime for path in native.rglob("*.[ch]"))
    if not program.exists() or program.stat().st_mtime < newest:
        subprocess.run([*command, *flags, *files, "-o", program], check=True)
    return program
