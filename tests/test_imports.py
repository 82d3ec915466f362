"""The order of the rooms: who may import whom."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

import pytest

import flyweight

# Each room imports only from itself and from rooms before it.
ROOMS = [
    "errors",
    "_files",
    "_provenance",
    "_config",
    "_tables",
    "_progress",
    "_architectures",
    "_native",
    "coding",
    "format",
    "batches",
    "processes",
    "modules",
    "compressed",
    "size_report",
    "batch_norm",
    "pruning",
    "quantization",
    "checkpoints",
    "proximal",
    "sparse_regression",
    "structured",
    "int8",
    "training",
    "recipes",
    "io",
    "compression",
    "report",
    "integrations",
    "cifar",
    "__init__",  # the public names: of all rooms only the command line may use them
    "cli",
    "__main__",
]
WITHOUT_TORCH = [
    "errors",
    "_files",
    "_provenance",
    "_config",
    "_tables",
    "_progress",
    "coding",
    "format",
]
FOLDER = Path(flyweight.__file__).parent
SOURCES = sorted(FOLDER.rglob("*.py"))


def room_of(module: str) -> str:
    """The room of a dotted name such as ``flyweight.coding.huffman``."""
    inner = module.split(".")[1:2]
    return inner[0] if inner and exists(inner[0]) else "__init__"


def exists(room: str) -> bool:
    """Whether there is a package, a module, or a module in C (with its stub) of that name."""
    return (FOLDER / room).is_dir() or any(FOLDER.glob(f"{room}.py*"))


def module_of(path: Path) -> str:
    parts = path.relative_to(FOLDER.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> Iterator[str]:
    """Dotted names of all that a file imports, also inside functions and for type checking."""
    module = module_of(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = resolve_name("." * node.level + (node.module or ""), package)
            yield from (f"{origin}.{name.name}" for name in node.names)


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_imports_go_only_to_rooms_before(path):
    room = room_of(module_of(path))
    assert room in ROOMS, f"{room} is a new room; give it a place in the order"
    allowed = ROOMS[: ROOMS.index(room) + 1]
    for name in imports_of(path):
        if name.split(".")[0] == "flyweight":
            assert room_of(name) in allowed, f"{module_of(path)} may not import {name}"


@pytest.mark.parametrize("room", ROOMS)
def test_room_exists(room):
    assert exists(room)


def test_lossless_rooms_know_no_torch():
    paths = [path for path in SOURCES if room_of(module_of(path)) in WITHOUT_TORCH]
    assert {room_of(module_of(path)) for path in paths} == set(WITHOUT_TORCH)
    for path in paths:
        roots = {name.split(".")[0] for name in imports_of(path)}
        tensors = [name for name in imports_of(path) if name.startswith("safetensors.torch")]
        assert "torch" not in roots, path
        assert not tensors, path


def test_import_reader_sees_every_form(tmp_path, monkeypatch):
    folder = tmp_path / "flyweight"
    (folder / "coding").mkdir(parents=True)
    monkeypatch.setattr(sys.modules[__name__], "FOLDER", folder)
    path = folder / "coding" / "huffman.py"
    path.write_text(
        "import os.path, flyweight.cli\n"
        "from flyweight import compress, coding\n"
        "from . import rans\n"
        "from ..errors import FormatError\n"
        "def f():\n    from flyweight.coding.rans import encode\n"
    )
    (folder / "errors.py").touch()
    (folder / "cli.py").touch()
    assert sorted(imports_of(path)) == [
        "flyweight.cli",
        "flyweight.coding",
        "flyweight.coding.rans",
        "flyweight.coding.rans.encode",
        "flyweight.compress",
        "flyweight.errors.FormatError",
        "os.path",
    ]
    rooms = {name: room_of(name) for name in imports_of(path) if name != "os.path"}
    assert rooms == {
        "flyweight.cli": "cli",
        "flyweight.coding": "coding",
        "flyweight.coding.rans": "coding",
        "flyweight.coding.rans.encode": "coding",
        "flyweight.compress": "__init__",
        "flyweight.errors.FormatError": "errors",
    }


def test_importing_flyweight_leaves_the_heavy_and_the_optional_out():
    program = "import flyweight, json, sys; print(json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    loaded = {name.split(".")[0] for name in json.loads(run.stdout)}
    assert "flyweight" in loaded
    assert not loaded & {"PIL", "matplotlib", "rich", "torchvision", "typer"}


@pytest.mark.parametrize(
    "program",
    [
        "from flyweight.modules import build; build('resnet20')",
        "from flyweight.modules import architectures; assert 'resnet20' in architectures()",
        "from flyweight.io import load; load({path!r})",
        "from flyweight.size_report import inspect; inspect({path!r})",
        "import flyweight; flyweight.load({path!r})",
        "import flyweight; flyweight.cifar.load_pretrained('resnet20')",
        "from flyweight.cifar import create_model; create_model('resnet20')",
        "import flyweight; flyweight.training.TrainingConfig",
        "import flyweight; assert not set(flyweight.__all__) - set(dir(flyweight))",
        "from flyweight import *; load({path!r})",
    ],
)
def test_networks_are_known_by_name_whatever_is_imported_first(tmp_path, program):
    path = tmp_path / "a.fly"
    state = flyweight.cifar.create_model("resnet20").state_dict()
    named = flyweight.CompressedModel(state, metadata={"architecture": "resnet20"})
    flyweight.save(named, path)
    program = program.format(path=str(path))
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_importing_flyweight_takes_no_torch():
    program = "import flyweight, sys; assert not {'torch', 'numpy'} & set(sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_flyweight_has_no_other_attributes():
    with pytest.raises(AttributeError, match="module 'flyweight' has no attribute 'nothing'"):
        flyweight.nothing  # noqa: B018
