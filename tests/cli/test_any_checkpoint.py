"""A checkpoint becomes a file and a checkpoint again, by commands alone."""

import pytest
import torch
from safetensors.torch import load_file, save_file


@pytest.fixture
def big(folder):
    generator = torch.Generator().manual_seed(0)
    state = {
        "w": torch.randn(100, 80, generator=generator).to(torch.bfloat16),
        "b": torch.randn(100, generator=generator),
    }
    save_file(state, folder / "big.safetensors", metadata={"format": "pt"})
    return state


def test_lossless_and_back(folder, cli, big):
    report = cli("compress", "big.safetensors", "-o", "big.fly", "--lossless", "--json").json()
    assert report["file_bytes"] == (folder / "big.fly").stat().st_size
    assert report["tensor_bytes"] == 2 * 8000 + 400
    assert report["ratio"] == report["tensor_bytes"] / report["file_bytes"]
    assert (report["tensors"], report["quantized"]) == (2, 0)
    cli("decompress", "big.fly", "-o", "back.safetensors", "--json").json()
    back = load_file(folder / "back.safetensors")
    assert all(torch.equal(back[name], tensor) for name, tensor in big.items())


def test_few_bits_in_words_and_in_the_ledger(folder, cli, big):
    result = cli("compress", "big.safetensors", "-o", "big.fly", "--bits", "4", "--quiet")
    assert (result.code, result.err) == (0, "")
    assert f"{(folder / 'big.fly').stat().st_size:,}" in result.out
    assert "2, 1 of them of few values" in result.out
    account = cli("inspect", "big.fly", "--json").json()
    assert account["total_bytes"] == (folder / "big.fly").stat().st_size
    assert account["total_bytes"] < 5000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("--bits", "4", "--recipe", "quick"),
            "beside --bits, there is nothing for --recipe to do; leave that out",
        ),
        (("--bits", "4", "--lossless"), "beside --lossless, there is nothing for --bits to do"),
        (("--lossless", "--architecture", "resnet20"), "nothing for --architecture to do"),
        (("--lossless", "--grid", "uniform", "--seed", "5"), "nothing for --seed, --grid to do"),
        (("--grid", "uniform"), "beside a recipe, there is nothing for --grid to do"),
        (("--effort", "fast"), "beside a recipe, there is nothing for --effort to do"),
        (("--bits", "9"), "1 to 8 bits; 9"),
        (("--bits", "4", "--grid", "x"), "grid 'x'"),
        (("--lossless", "--effort", "x"), "effort 'x'"),
    ],
)
def test_what_does_not_go_together_is_refused(folder, cli, big, arguments, said):
    result = cli("compress", "big.safetensors", "-o", "big.fly", *arguments)
    assert result.code == 2
    assert result.err.startswith("flyweight: ")
    assert said in result.err
    assert not (folder / "big.fly").exists()


def test_a_damaged_or_missing_checkpoint_is_one_sentence(folder, cli, big):
    for name, said in (("none.safetensors", "no file"), (".", "safetensors checkpoints")):
        result = cli("compress", name, "-o", "out.fly", "--lossless")
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
        assert said in result.err
    data = (folder / "big.safetensors").read_bytes()
    (folder / "big.safetensors").write_bytes(data[:-1])
    result = cli("compress", "big.safetensors", "-o", "out.fly", "--bits", "4")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "damaged" in result.err
    assert not (folder / "out.fly").exists()
