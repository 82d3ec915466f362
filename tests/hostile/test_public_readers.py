"""Hostile files through the functions that users call: bounded, and `FormatError` only."""

import os
import threading
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from judge import SPARE, declared_bytes

from flyweight.coding import forms
from flyweight.coding.symbols import unpack_symbols
from flyweight.errors import FlyweightError, FormatError
from flyweight.io import decompress, load, load_state_dict
from flyweight.size_report import inspect

FILES = Path(__file__).parent / "files"


@pytest.fixture(params=["load_state_dict", "decompress", "inspect"])
def read(request, tmp_path):
    """Return a function that reads a file by its path."""
    return {
        "load_state_dict": load_state_dict,
        "decompress": lambda path: decompress(path, tmp_path / "out.safetensors"),
        "inspect": inspect,
    }[request.param]


@pytest.mark.parametrize("name", sorted(path.stem for path in FILES.glob("*.fly")))
def test_readers_bound_memory_of_hostile_files(read, name):
    path = FILES / f"{name}.fly"
    tracemalloc.start()
    with suppress(FormatError):
        read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * declared_bytes(path) + SPARE


def test_readers_decode_each_interleaved_group_once(read, monkeypatch):
    decoded = []
    monkeypatch.setattr(forms, "unpack_symbols", lambda *a: decoded.append(a) or unpack_symbols(*a))
    read(FILES / "interleaved_groups.fly")
    assert len(decoded) <= 17


def test_readers_read_a_context_coded_scalar(read):
    read(FILES / "scalar_context.fly")
    ((_, value),) = load_state_dict(FILES / "scalar_context.fly").items()
    assert value.shape == ()


def test_readers_count_aliases_against_the_bound_of_bytes(read):
    with pytest.raises(FormatError, match="4198498304 bytes in all"):
        read(FILES / "aliases.fly")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("many_tensors", "states 5000 tensors; so few bytes have at most"),
        ("many_strings", "states 5000 strings of metadata; so few bytes have at most"),
        ("long_names", "names of the tensors are too long"),
    ],
)
def test_readers_bound_what_a_header_states(read, name, message):
    with pytest.raises(FormatError, match=message):
        read(FILES / f"{name}.fly")


def test_inspect_escapes_control_characters_of_names():
    text = str(inspect(FILES / "escape_sequences.fly"))
    assert all(line.isprintable() for line in text.splitlines())
    assert text.isascii()
    assert "\\x1b" in text


@pytest.mark.parametrize("source", ["/dev/zero", "/dev/null", "folder", "fifo"])
def test_readers_refuse_what_is_no_regular_file(read, source, tmp_path):
    path = Path(source)
    if source == "folder":
        path = tmp_path
    elif source == "fifo":
        path = tmp_path / "fifo"
        os.mkfifo(path)
    caught = []

    def attempt():
        try:
            read(path)
        except FlyweightError as error:
            caught.append(str(error))

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(timeout=60)
    assert len(caught) == 1, "the reader waits, or reads something"
    what = "is a folder" if source == "folder" else "is a device or FIFO"
    assert what in caught[0]


def test_readers_check_the_first_bytes_before_they_read_on(read, tmp_path):
    path = tmp_path / "vast.fly"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(FormatError, match="does not begin with FLYW"):
        read(path)


@pytest.mark.parametrize("length", [0, 3, 40, 300])
def test_readers_never_speak_of_writing(length, tmp_path):
    path = tmp_path / "a.fly"
    path.write_bytes((FILES / "interleaved_groups.fly").read_bytes()[:length])
    for read in (load_state_dict, inspect, lambda p: load(p, torch.nn.Linear(2, 2))):
        with pytest.raises(FormatError) as caught:
            read(path)
        assert "a.fly" in str(caught.value)
        assert "writ" not in str(caught.value)
