"""The C library for devices decodes files to the same bits as Python, and refuses the same ones.

``tests/hostile/test_sanitized.py`` runs it under sanitizers.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from flyweight.coding import decode_tensor
from flyweight.coding.header import pack_shapes
from flyweight.errors import FormatError
from flyweight.format import loads

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
DEVICE = ROOT / "examples" / "device"
DECODERS = [path for path in (ROOT / "native").glob("*.c") if "_encode" not in path.stem]
COMPILER = shutil.which("cc")
FLAGS = ["-std=c99", "-O1", "-ffp-contract=off", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
LEFT_OUT = ("RANS", "CONTEXT", "PLANES", "SPARSE", "GROUPS", "DOUBLE")
UNSUPPORTED = "refused 211"

pytestmark = pytest.mark.skipif(COMPILER is None, reason="there is no C compiler")


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def compiled(folder, source, *options):
    """Compile a program with the decoders; a warning is an error."""
    out = folder / source.stem
    folders = [f"-I{ROOT / 'native'}", f"-I{folder}"]
    run(COMPILER, *FLAGS, *options, *folders, source, *DECODERS, "-o", out)
    assert out.is_file()
    return out


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("host"), DEVICE / "host.c")


def escaped(name):
    """Return a name as ``host`` prints it."""
    plain = (33 <= byte < 127 and byte not in b'"\\' for byte in name.encode())
    bytes_ = zip(name.encode(), plain, strict=True)
    return "".join(chr(byte) if as_it_is else f"\\{byte:03o}" for byte, as_it_is in bytes_)


def expected(container):
    """Return the lines that ``host`` prints for the tensors of a container."""
    lines = []
    for tensor in container.tensors:
        source = tensor if tensor.target is None else container.tensors[tensor.target]
        shape = "x".join(map(str, tensor.shape))
        values = decode_tensor(source)
        told = f"{zlib.crc32(values.tobytes()):08x}"
        told = UNSUPPORTED if source.coder == "matches" else told
        lines.append(f"  {escaped(tensor.name)} {tensor.dtype} {shape} {told}")
    return lines


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.fly")), ids=lambda path: path.stem)
def test_host_decodes_golden_file(host, path, tmp_path):
    shapes, arguments = None, []
    if "bare" in path.stem:
        table = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        shapes = {name: tuple(tensor["shape"]) for name, tensor in table.items()}
        known = pack_shapes(shapes.items())
        (tmp_path / "known").write_bytes(hashlib.sha256(known).digest()[:8] + known)
        arguments = ["-a", tmp_path / "known"]
        assert run(host, path) == f"{path.name} refused 245\n"
    lines = run(host, *arguments, path).splitlines()
    assert lines == [path.name, *expected(loads(path.read_bytes(), shapes))]
    damaged = bytearray(path.read_bytes())
    damaged[-9] ^= 1
    (tmp_path / "damaged.fly").write_bytes(damaged)
    assert run(host, *arguments, tmp_path / "damaged.fly") == "damaged.fly refused 208\n"


def test_read_lists_and_decodes_embedded_file(host, tmp_path):
    path = GOLDEN / "v1-coders.fly"
    (tmp_path / "model.h").write_text(run(host, "-e", path))
    lines = run(compiled(tmp_path, DEVICE / "read.c")).splitlines()
    for tensor, line in zip(loads(path.read_bytes()).tensors, lines[:-1], strict=True):
        assert re.fullmatch(rf"{re.escape(tensor.name)} +{tensor.dtype} \(.*\)", line)
    assert re.search(r" begins with -?\d\S* -?\d\S* -?\d\S*$", lines[-1])


def test_parts_left_out_are_refused_alone(host, tmp_path):
    paths = [GOLDEN / "v1-coders.fly", GOLDEN / "v1-groups.fly", GOLDEN / "v1.fly"]
    options = [f"-DFLY_NO_{part}" for part in LEFT_OUT]
    small = compiled(tmp_path, DEVICE / "host.c", *options)
    pairs = zip(run(host, *paths).splitlines(), run(small, *paths).splitlines(), strict=True)
    changed = [new for old, new in pairs if old != new]
    assert all("refused" in line for line in changed)
    assert any("huffman" in line for line in run(small, paths[0]).splitlines())
    for coder in ("rans", "context"):
        assert any(f"{coder}." in line for line in changed)


@pytest.mark.parametrize("part", ["HUFFMAN", *LEFT_OUT])
def test_file_compiles_without_part(part):
    command = [COMPILER, *FLAGS, f"-DFLY_NO_{part}", "-fsyntax-only", ROOT / "native" / "file.c"]
    assert subprocess.run(command, check=False).returncode == 0


@pytest.fixture(scope="module")
def hostile_files(tmp_path_factory):
    """Damaged files with right checksums, and the lines of each, None where Python refuses it."""
    sys.path.insert(0, str(ROOT / "tests" / "hostile"))
    try:
        from cases import case
    finally:
        sys.path.pop(0)
    folder = tmp_path_factory.mktemp("hostile")
    found = {}
    for number, name in enumerate(("many_tensors", "many_strings", "long_names"), 400):
        data = (ROOT / "tests" / "hostile" / "files" / f"{name}.fly").read_bytes()
        path = folder / f"{number}.fly"
        path.write_bytes(data)
        found[path] = None
    for number in range(400):
        _, one = case(11, number)
        if one.reader == "file" and one.shapes is None:
            path = folder / f"{number}.fly"
            path.write_bytes(one.data)
            try:
                found[path] = expected(loads(one.data))
            except FormatError as error:
                if not re.search("UTF-8|two tensors", str(error)):  # C leaves these to the caller
                    found[path] = None
    return found


def test_host_refuses_what_python_refuses(host, hostile_files):
    sections = re.split(r"^(\d+\.fly)", run(host, *hostile_files), flags=re.M)[1:]
    assert len(sections) == 2 * len(hostile_files)
    for (path, lines), text in zip(hostile_files.items(), sections[1::2], strict=True):
        if lines is not None:
            assert text.splitlines() == ["", *lines], path
        else:
            assert "refused" in text, path
