"""Files that are no checkpoint are named for what they are."""

import gzip
import io
import os
import pickle
import socket
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from flyweight.checkpoints import checkpoint_kind, compress_checkpoint, escaped, read_state_dict
from flyweight.errors import CheckpointError
from flyweight.format import MAGIC


def archive(**files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        for name, data in files.items():
            opened.writestr(name, data)
    return file.getvalue()


def torch_file(content, **options):
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def numpy_file():
    file = io.BytesIO()
    np.save(file, np.ones(2))
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (MAGIC + bytes(40), "is a .fly file already; decompress it first"),
        (b"GGUF\3\0\0\0" + bytes(40), "is a GGUF file; give the safetensors or torch checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "is a Git LFS pointer.*git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "is a web page.*download the file itself"),
        (b"<HTML><body>404", "is a web page"),
        (b"", "is empty"),
        (gzip.compress(b"x", mtime=0), "is compressed by gzip; unpack it first"),
        (archive(note="x"), "is a zip archive; unpack it first"),
        (archive(note="x")[:-4], "is a damaged zip archive"),
        (b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
        (numpy_file(), "is a NumPy array"),
        (b"hello", "is neither a safetensors file nor a torch checkpoint"),
        (bytes(600), "is neither a safetensors file nor a torch checkpoint"),
    ],
)
@pytest.mark.parametrize("name", ["a.pt", "a.bin"])
def test_checkpoint_kind_says_what_another_file_is(tmp_path, content, said, name):
    path = tmp_path / name
    path.write_bytes(content)
    for function in (checkpoint_kind, read_state_dict):
        with pytest.raises(CheckpointError, match=rf"{name} {said}"):
            function(path)
    with pytest.raises(CheckpointError, match=said):
        compress_checkpoint(path, tmp_path / "out.fly", bits=4)
    assert not (tmp_path / "out.fly").exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".ckpt", ".pth", ""])
def test_checkpoint_kind_goes_by_content_not_by_suffix(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(save({"w": torch.ones(3)}))
    assert checkpoint_kind(path) == "safetensors"
    path.write_bytes(torch_file({"w": torch.ones(3)}))
    assert checkpoint_kind(path) == "torch"
    path.write_bytes(torch_file({"w": torch.ones(3)}, _use_new_zipfile_serialization=False))
    assert checkpoint_kind(path) == "torch"
    path.write_text('{"weight_map": {}}')
    assert checkpoint_kind(path) == "index"


def test_checkpoint_kind_knows_a_header_whose_length_looks_like_a_pickle(tmp_path):
    header = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'.ljust(0x280)
    (tmp_path / "a").write_bytes((0x280).to_bytes(8, "little") + header + b"\5")
    assert checkpoint_kind(tmp_path / "a") == "safetensors"
    assert read_state_dict(tmp_path / "a")["a"].tolist() == [5]


def test_read_state_dict_names_torchscript_and_code(tmp_path):
    content = archive(**{"script/data.pkl": b"x", "script/constants.pkl": b"x"})
    (tmp_path / "script.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"TorchScript archive; save `model.state_dict\(\)`"):
        read_state_dict(tmp_path / "script.pt")
    (tmp_path / "code.pkl").write_bytes(pickle.dumps(Path("x")))
    with pytest.raises(CheckpointError, match="runs no code"):
        read_state_dict(tmp_path / "code.pkl")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_devices_fifos_and_sockets_are_refused_without_reading(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    server = socket.socket(socket.AF_UNIX)
    server.bind(os.path.relpath(tmp_path / "socket"))
    server.close()
    for path, said in (
        (tmp_path / "fifo", "is a FIFO"),
        (tmp_path / "socket", "is a socket"),
        ("/dev/zero", "is a device"),
        ("-", "standard input cannot be read; name a file"),
    ):
        for function in (read_state_dict, lambda p: compress_checkpoint(p, tmp_path / "o.fly")):
            with pytest.raises(CheckpointError, match=said):
                function(path)


def test_messages_escape_control_characters(tmp_path):
    name = "a\x1b[31m\n.pt"
    with pytest.raises(CheckpointError) as caught:
        read_state_dict(tmp_path / name)
    assert str(caught.value).isprintable()
    (tmp_path / name).write_bytes(b"hello")
    with pytest.raises(CheckpointError) as caught:
        read_state_dict(tmp_path / name)
    assert str(caught.value).isprintable()
    torch.save({"a\x1b[0m": 3}, tmp_path / "b.pt")
    with pytest.raises(CheckpointError, match="not a tensor") as caught:
        read_state_dict(tmp_path / "b.pt")
    assert str(caught.value).isprintable()
    assert escaped("ä b") == "ä b"
