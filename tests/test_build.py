"""What is built and shipped, and what is said where something to build with is missing."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NO_HEADERS = """
import runpy, sys, sysconfig
sysconfig.get_path = lambda name: "/nowhere"
sys.argv = ["setup.py", "-q", "build_ext"]
runpy.run_path("setup.py")
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of what a build reads."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("native", "src/flyweight"):
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.so")
        )
    return folder


def build(source, *arguments, **environment):
    """Run Python in the source; what it says to the terminal and its exit status."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=source,
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
    )
    return done.stdout + done.stderr, done.returncode


def files_of(folder):
    """All files but those of Python's own making."""
    paths = (path for path in folder.rglob("*") if "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix() for path in paths if path.is_file()}


@pytest.mark.skipif(not shutil.which("gcc", path="/usr/bin:/bin"), reason="there is no compiler")
def test_the_wheel_holds_the_package_and_one_extension(source):
    said, status = build(
        source, "setup.py", "-q", "bdist_wheel", CC="gcc", FLYWEIGHT_CFLAGS="-O0 -Werror"
    )
    assert status == 0, said
    (wheel,) = (source / "dist").glob("*.whl")
    assert "-cp311-abi3-" in wheel.name
    names = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    package = {f"flyweight/{name}" for name in files_of(source / "src" / "flyweight")}
    assert names == package | {"flyweight/_native.abi3.so"}


def test_the_source_distribution_holds_the_native_core(source):
    said, status = build(source, "setup.py", "-q", "sdist")
    assert status == 0, said
    (path,) = (source / "dist").glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"native/{name}" for name in files_of(source / "native")} <= names
    assert not any(name.startswith("tests") for name in names)


def test_a_missing_compiler_is_told_in_one_sentence(source):
    said, status = build(source, "setup.py", "-q", "build_ext", CC="no-such-compiler")
    assert status == 1
    (sentence,) = said.splitlines()
    assert "needs a C compiler and found no 'no-such-compiler'; install one (Debian: " in sentence


def test_missing_headers_are_told_in_one_sentence(source):
    said, status = build(source, "-c", NO_HEADERS, CC=sys.executable)
    assert status == 1
    (sentence,) = said.splitlines()
    assert "found no Python.h in /nowhere; install them (Debian: apt install python3" in sentence


def test_the_smoke_test_of_wheels_passes():
    runpy.run_path(str(ROOT / "tests" / "smoke.py"))
