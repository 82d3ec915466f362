"""Any checkpoint becomes a file and a checkpoint again, by commands alone."""

import os

import pytest
import torch
from safetensors.torch import load_file, save_file

COMPRESS = "compress-checkpoint"


@pytest.fixture
def big(folder):
    generator = torch.Generator().manual_seed(0)
    state = {
        "w": torch.randn(100, 80, generator=generator).to(torch.bfloat16),
        "b": torch.randn(100, generator=generator),
    }
    save_file(state, folder / "big.safetensors", metadata={"format": "pt"})
    torch.save({"state_dict": state, "epoch": 3}, folder / "big.pt")
    return state


@pytest.mark.parametrize("source", ["big.safetensors", "big.pt"])
def test_compress_checkpoint_and_decompress_are_lossless(folder, cli, big, source):
    report = cli(COMPRESS, source, "-o", "big.fly", "--lossless", "--json").json()
    assert report["file_bytes"] == (folder / "big.fly").stat().st_size
    assert report["tensor_bytes"] == 2 * 8000 + 400
    assert report["tensor_ratio"] == report["tensor_bytes"] / report["file_bytes"]
    assert (report["tensors"], report["quantized"]) == (2, 0)
    cli("decompress", "big.fly", "-o", "back.safetensors", "--json").json()
    back = load_file(folder / "back.safetensors")
    assert all(torch.equal(back[name], tensor) for name, tensor in big.items())


@pytest.mark.parametrize("source", ["big.safetensors", "big.pt"])
def test_compress_checkpoint_quantizes_and_inspect_counts_the_bytes(folder, cli, big, source):
    result = cli(COMPRESS, source, "-o", "big.fly", "--bits", "4", "--quiet")
    assert (result.code, result.err) == (0, "")
    assert f"{(folder / 'big.fly').stat().st_size:,}" in result.out
    assert "2, 1 quantized" in result.out
    account = cli("inspect", "big.fly", "--json").json()
    assert account["total_bytes"] == (folder / "big.fly").stat().st_size
    assert account["total_bytes"] < 4700


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"GGUF\3\0\0\0" + bytes(40), "is a GGUF file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html>", "web page"),
        (b"hello", "neither a safetensors file nor a torch checkpoint"),
        (b"", "is empty"),
    ],
)
def test_compress_checkpoint_says_what_another_file_is(folder, cli, content, said):
    (folder / "a.pth").write_bytes(content)
    result = cli(COMPRESS, "a.pth", "-o", "out.fly", "--bits", "4")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert said in result.err
    assert not (folder / "out.fly").exists()


def test_compress_checkpoint_refuses_a_damaged_or_missing_checkpoint(folder, cli, big):
    data = (folder / "big.safetensors").read_bytes()
    (folder / "big.safetensors").write_bytes(data[:-1])
    for name, said in (("none.safetensors", "none.safetensors"), ("big.safetensors", "damaged")):
        result = cli(COMPRESS, name, "-o", "out.fly", "--lossless")
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
        assert said in result.err
    assert not (folder / "out.fly").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_compress_checkpoint_refuses_devices_and_fifos(folder, cli):
    os.mkfifo(folder / "fifo")
    for name in ("/dev/zero", "fifo"):
        result = cli(COMPRESS, name, "-o", "out.fly", "--lossless")
        assert (result.code, result.err.count("\n")) == (2, 1)
        assert name in result.err
