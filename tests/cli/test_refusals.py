"""What the command line refuses: one sentence on stderr, exit code 2, and nothing is changed."""

import contextlib
import errno
import os
import pickle
import resource
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

TINY = ("--architecture", "networks:tiny")
QUICKEST = ("--recipe", "tiny.toml")
OUT = ("-o", "out.fly")


def contents(folder):
    """Every file below a folder, and what is in it."""
    files = [
        path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in str(path)
    ]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def refused(folder, cli):
    """Run a command that must be refused; return its sentence."""

    def run(*arguments: str) -> str:
        before = contents(folder)
        result = cli(*arguments)
        assert result.code == 2
        assert result.out == ""
        sentence = result.err
        assert sentence.startswith("flyweight: ")
        assert sentence.index("\n") == len(sentence) - 1
        assert ". " not in sentence, "more than one sentence"
        assert "Traceback" not in sentence
        assert contents(folder) == before
        return sentence

    return run


def compress_with(
    checkpoint="tiny.safetensors", *, architecture="networks:tiny", recipe="tiny.toml"
):
    return ("compress", checkpoint, "--architecture", architecture, *OUT, "--recipe", recipe)


@pytest.mark.parametrize(
    "command",
    [("inspect",), ("decompress", "-o", "out.safetensors"), ("evaluate", *TINY)],
    ids=lambda command: command[0],
)
@pytest.mark.parametrize(
    "defect", ["missing", "folder", "empty", "flipped", "short", "long", "another format"]
)
def test_a_file_that_is_no_fly_file(folder, refused, command, defect):
    whole = (folder / "tiny.fly").read_bytes()
    middle = len(whole) // 2
    path = folder / "bad.fly"
    if defect == "folder":
        path.mkdir()
    elif defect != "missing":
        path.write_bytes(
            {
                "empty": b"",
                "flipped": whole[:middle] + bytes([whole[middle] ^ 16]) + whole[middle + 1 :],
                "short": whole[:-20],
                "long": whole + b"\0",
                "another format": b"PK\x03\x04" + bytes(200),
            }[defect]
        )
    assert "bad.fly" in refused(command[0], "bad.fly", *command[1:])


@pytest.mark.parametrize(
    ("architecture", "said"),
    [
        ("resnet20", "does not fit the architecture"),
        ("resnet21", "'resnet21' is unknown"),
        ("nosuch:thing", "'nosuch:thing' cannot be imported"),
        ("networks:nosuch", "'networks:nosuch' cannot be imported"),
        (":tiny", "':tiny' cannot be imported"),
        (".networks:tiny", "'.networks:tiny' cannot be imported"),
        ("broken:tiny", "'broken:tiny' cannot be imported"),
        ("networks:failing", "no such luck"),
        ("networks:number", "gave a int, not a torch.nn.Module"),
        ("networks:torch", "failed to build a module"),
    ],
)
@pytest.mark.parametrize("command", ["compress", "evaluate a checkpoint", "evaluate a .fly file"])
def test_an_architecture_that_cannot_be(folder, refused, architecture, said, command):
    (folder / "broken.py").write_text("raise NameError('half written')\n")
    arguments = {
        "compress": compress_with(architecture=architecture),
        "evaluate a checkpoint": ("evaluate", "tiny.safetensors", "--architecture", architecture),
        "evaluate a .fly file": ("evaluate", "tiny.fly", "--architecture", architecture),
    }
    assert said in refused(*arguments[command])


def test_no_architecture(folder, refused):
    assert "--architecture" in refused("compress", "tiny.safetensors", *OUT, *QUICKEST)
    assert "--architecture" in refused("evaluate", "tiny.safetensors")
    assert "--architecture" in refused("evaluate", "tiny.fly")
    assert "'resnet21' is unknown" in refused("train", "resnet21", "-o", "run")


def test_an_empty_model_and_one_for_other_images(folder, refused):
    save_file({}, folder / "empty.safetensors")
    sentence = refused(*compress_with("empty.safetensors", architecture="networks:empty"))
    assert "no parameters" in sentence
    grey = {"1.weight": torch.zeros(10, 1024), "1.bias": torch.zeros(10)}
    save_file(grey, folder / "grey.safetensors")
    sentence = refused(*compress_with("grey.safetensors", architecture="networks:grey"))
    assert "(3, 32, 32)" in sentence


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["3.weight", "4.running_var", "8.bias"])
def test_weights_that_are_not_finite(folder, refused, value, name):
    state = load_file(folder / "tiny.safetensors")
    state[name].flatten()[1] = value
    save_file(state, folder / "bad.safetensors")
    sentence = refused(*compress_with("bad.safetensors"))
    assert repr(name) in sentence
    assert "1 values that are NaN or infinite" in sentence


class _Attack:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


@pytest.mark.parametrize("form", ["zip", "pickle", "old pickle"])
@pytest.mark.parametrize("command", ["compress", "evaluate"])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(folder, refused, form, command):
    state = {"0.weight": _Attack()}
    if form == "zip":
        torch.save(state, folder / "attack.pt")
    else:
        protocol = 2 if form == "old pickle" else pickle.HIGHEST_PROTOCOL
        (folder / "attack.pt").write_bytes(pickle.dumps(state, protocol=protocol))
    arguments = compress_with("attack.pt") if command == "compress" else ("evaluate", "attack.pt")
    sentence = refused(*arguments, *(TINY if command == "evaluate" else ()))
    assert "runs no code" in sentence
    assert not (folder / "executed").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("missing.safetensors", None),
        ("missing.pt", None),
        ("folder", None),
        ("bad.safetensors", b""),
        ("bad.safetensors", b"\xff" * 100),
        ("bad.pt", b""),
        ("bad.pt", b"weights"),
        ("bad.pt", b"PK\x03\x04 and then nothing"),
    ],
)
def test_a_checkpoint_that_is_none(folder, refused, name, content):
    (folder / "folder").mkdir()
    if content is not None:
        (folder / name).write_bytes(content)
    assert name in refused(*compress_with(name))
    assert name in refused("evaluate", name, *TINY)


def test_a_truncated_checkpoint(folder, refused):
    whole = (folder / "tiny.safetensors").read_bytes()
    (folder / "short.safetensors").write_bytes(whole[:-1])
    assert "short.safetensors" in refused(*compress_with("short.safetensors"))


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("speed = 9", "unknown key 'speed'"),
        ("[pruning]\nsparcity = 0.5", "unknown key 'pruning.sparcity'"),
        ("[sharing.training]\nepoch = 1", "unknown key 'sharing.training.epoch'"),
        ("[pruning\n", "not valid TOML"),
        ("name = " + "[" * 5000, "not valid TOML"),
        ("[pruning]\nsparsity = 1.0", "pruning.sparsity"),
        ("[pruning]\nsparsity = nan", "pruning.sparsity"),
        ("[pruning]\nsparsity = 1.5", "pruning.sparsity is a fraction from 0 up to"),
        ("[pruning]\nsparsity = 80", "found 80"),
        ("[pruning.overrides]\n'0.*' = 1.5", "'0.*' is a fraction from 0 to 1; found 1.5"),
        ("[pruning.overrides]\n'stem*' = 0.5", "'stem*' matches none of the weights"),
        ("[pruning]\nkeep = ['stem*']", "'stem*' matches no parameter"),
        ("[pruning]\nkeep = ['*']", "leave no weight"),
        ("[pruning]\ntypes = ['LSTM']", "no layer of the type 'LSTM' has parameters"),
        ("[pruning]\npattern = '2:4'", "goes with a sparsity of 0.5 in every layer"),
        (
            "[pruning]\npattern = '2:4'\nsparsity = 0.5",
            "tensor '0.weight': N of 4 needs a multiple of 4 weights along dimension 1",
        ),
        (
            "[pruning]\npattern = '3x1x1x1'\nsparsity = 0.5",
            "tensor '0.weight': blocks of (3, 1, 1, 1) do not divide",
        ),
        ("[pruning]\npattern = '5:4'", "a pattern is 'weights'"),
        ("[pruning]\ncriterion = 'size'", "pruning.criterion"),
        ("[pruning]\nsparsity = '0.5'", "pruning.sparsity is a number"),
        ("[sharing]\nbits = 9", "sharing.bits"),
        ("[sharing.training]\nepochs = -1", "training.epochs"),
        ("pruning = 3", "pruning is a table"),
        ("[pruning]\nlayers = ['nosuch*']", "'nosuch*' matches no parameter"),
    ],
)
def test_a_recipe_that_cannot_be(folder, refused, toml, said):
    (folder / "bad.toml").write_text(toml)
    assert said in refused(*compress_with(recipe="bad.toml"))


def test_a_recipe_that_is_not_there(folder, refused):
    (folder / "binary.toml").write_bytes(b"\xff\xfe")
    (folder / "folder").mkdir()
    assert "there is no recipe 'nosuch'" in refused(*compress_with(recipe="nosuch"))
    assert "recipe file folder" in refused(*compress_with(recipe="folder"))
    assert "binary.toml" in refused(*compress_with(recipe="binary.toml"))


@pytest.mark.parametrize("device", ["nosuch", "meta", "cpu:-1", "hpu", ""])
def test_a_device_that_is_not_here(folder, refused, device):
    said = f"device {device!r} cannot be used here"
    assert said in refused(*compress_with(), "--device", device)
    assert said in refused("evaluate", "tiny.fly", *TINY, "--device", device)
    assert said in refused("train", "resnet20", "-o", "run", "--device", device)


def test_a_data_folder_that_is_not_there(folder, refused):
    assert "nowhere" in refused(*compress_with(), "--data", "nowhere")
    assert "nowhere" in refused("evaluate", "tiny.fly", *TINY, "--data", "nowhere")
    assert "nowhere" in refused("train", "resnet20", "-o", "run", "--data", "nowhere")


@pytest.mark.parametrize("output", ["nowhere/out", "folder"])
def test_an_output_that_cannot_be(folder, refused, output):
    (folder / "folder").mkdir()
    said = "does not exist" if output.startswith("nowhere") else "is a folder"
    checkpoint = ("compress", "tiny.safetensors", *TINY, *QUICKEST)
    assert said in refused(*checkpoint, "-o", output)
    assert said in refused("decompress", "tiny.fly", "-o", output)


def test_a_seed_that_cannot_be(folder, cli):
    for seed in ("-1", str(2**70), "one"):
        result = cli(*compress_with(), "--seed", seed)
        assert (result.code, result.out) == (2, "")
        assert "--seed" in result.err
        assert not (folder / "out.fly").exists()


def test_a_full_disk_leaves_the_file_that_was_there(folder, refused, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert "No space left on device" in refused(*compress_with())
    (folder / "out.fly").write_bytes(b"the file of last week")
    assert "No space left on device" in refused(*compress_with())


@contextlib.contextmanager
def room_for(size):
    """No file that this process writes can grow beyond ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
@pytest.mark.parametrize("writer", ["compress", "decompress", "a state of training"])
def test_no_room_for_a_whole_file(folder, cli, writer):
    (folder / "out").write_bytes(b"the file of last week")
    (folder / "trained.toml").write_text("[pruning.training]\nepochs = 1\nbatch_size = 20\n")
    checkpoint = ("compress", "tiny.safetensors", *TINY, "-o", "out", "--recipe")
    arguments = {
        "compress": (*checkpoint, "tiny.toml"),
        "decompress": ("decompress", "tiny.fly", "-o", "out"),
        "a state of training": (*checkpoint, "trained.toml"),
    }[writer]
    before = contents(folder)
    with room_for(500):
        result = cli(*arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("flyweight: ")
    assert result.err.count("\n") == 1
    assert contents(folder) == before
