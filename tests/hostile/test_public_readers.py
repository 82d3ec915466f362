"""Hostile files through the functions that users call: bounded, and `FormatError` only."""

import os
import threading
import tracemalloc
from contextlib import suppress
from pathlib import Path
from time import process_time

import pytest
import torch

from flyweight.errors import FlyweightError, FormatError
from flyweight.format import Reader
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


def declared_bytes(path):
    with Reader(path) as reader:
        return sum(8 * outline.size for outline in reader.outlines)


def test_readers_bound_time_and_memory_of_interleaved_groups(read):
    path = FILES / "interleaved_groups.fly"
    tracemalloc.start()
    begin = process_time()
    read(path)
    seconds = process_time() - begin
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * declared_bytes(path)
    assert seconds < 60, "each member decodes its whole group"


def test_readers_read_a_context_coded_scalar(read):
    read(FILES / "scalar_context.fly")
    ((_, value),) = load_state_dict(FILES / "scalar_context.fly").items()
    assert value.shape == ()


def test_readers_count_aliases_against_the_bound_of_elements(read):
    with pytest.raises(FormatError, match="1049624576 elements in all, where a file of 9638 bytes"):
        read(FILES / "aliases.fly")


@pytest.mark.parametrize("name", ["context_zeros", "rans_interleaved", "escape_sequences"])
def test_readers_read_or_refuse_other_hostile_files(read, name):
    with suppress(FormatError):
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
    path.write_bytes((FILES / "context_zeros.fly").read_bytes()[:length])
    for read in (load_state_dict, inspect, lambda p: load(p, torch.nn.Linear(2, 2))):
        with pytest.raises(FormatError) as caught:
            read(path)
        assert "a.fly" in str(caught.value)
        assert "writ" not in str(caught.value)
