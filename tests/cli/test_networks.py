"""What MODEL, --architecture and --task name; each refusal names the way out."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from flyweight.cli.networks import load_task, named_network, open_network
from flyweight.errors import FlyweightError

TINY = "networks:tiny"


@pytest.fixture(autouse=True)
def _here(folder, monkeypatch):
    monkeypatch.syspath_prepend(str(folder))


@pytest.mark.parametrize("name", ["tiny.safetensors", "tiny.pt"])
def test_open_network_fills_the_architecture_from_a_checkpoint(folder, name):
    state = load_file("tiny.safetensors")
    torch.save(state, folder / "tiny.pt")
    network = open_network(name, TINY)
    assert not network.training
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_open_network_builds_a_factory():
    assert not open_network(TINY, None).training


def test_named_network_leaves_files_to_their_reader():
    assert named_network("tiny.fly", TINY) == Path("tiny.fly")
    assert named_network("tiny.safetensors", None) == Path("tiny.safetensors")
    assert isinstance(named_network(TINY, None), torch.nn.Module)


def test_open_network_knows_pretrained_names():
    assert sum(p.numel() for p in open_network("resnet20", None).parameters()) == 269_722


@pytest.mark.parametrize(
    ("model", "architecture", "expected"),
    [
        ("resnet21", None, r"no file or network 'resnet21'; give the network resnet2?0?"),
        ("nowhere/x.safetensors", TINY, "no file or network 'nowhere/x.safetensors'"),
        ("resnet20", TINY, "--architecture has no effect with the network resnet20; leave it out"),
        (TINY, "resnet20", "--architecture has no effect with the network networks:tiny"),
        ("tiny.safetensors", None, "give --architecture .* compress-checkpoint"),
        ("tiny.fly", TINY, r"tiny\.fly is a \.fly file already; decompress it first"),
        ("renamed.bin", TINY, r"renamed\.bin is a \.fly file already"),
        ("-", None, "stdin cannot be read"),
        ("tiny.safetensors", "resnet20", "does not fit"),
        ("tiny.safetensors", "resnet21", "'resnet21' is unknown"),
        ("tiny.safetensors", "nosuch:thing", "'nosuch:thing' cannot be imported"),
        ("tiny.safetensors", "networks:failing", "no such luck"),
        ("tiny.safetensors", "networks:leaving", "SystemExit|sys.exit"),
        ("tiny.safetensors", "networks:number", "returned a int, not a torch.nn.Module"),
    ],
)
def test_open_network_refuses(folder, model, architecture, expected):
    shutil.copy("tiny.fly", "renamed.bin")
    with pytest.raises(FlyweightError, match=expected):
        open_network(model, architecture)


def test_load_task_returns_the_arguments_of_a_function():
    found = load_task("networks:task", open_network(TINY, None), "tiny")
    assert sorted(found) == ["data", "evaluate"]
    assert len(found["data"]) == 3


def test_load_task_gives_a_function_the_options_that_it_names():
    network = open_network(TINY, None)
    load_task("networks:seeded_task", network, "tiny", seed=7, device="cpu")
    import networks

    assert networks.calls == [(7, "cpu")]


def test_load_task_takes_cifar10_for_networks_by_name(monkeypatch):
    asked = {}
    task = {"data": range(100), "evaluate": max}
    monkeypatch.setattr("flyweight.cifar.task", lambda **options: asked.update(options) or task)
    network = open_network("resnet20", None)
    found = load_task(None, network, "resnet20", device="cpu", seed=3)
    assert (list(found["data"]), found["evaluate"]) == ([*range(100)], max)
    assert asked == {"data": None, "device": "cpu", "seed": 3, "progress": None}


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (None, r'no task for tiny.*--task package\.module:function.*\{"data": loader'),
        ("networks", "--task 'networks' has not the form package.module:function"),
        ("nosuch:task", "--task 'nosuch:task' cannot be imported .*No module named 'nosuch'"),
        ("networks:nosuch", "--task 'networks:nosuch' cannot be imported"),
        ("ending:task", "--task 'ending:task' cannot be imported .the module calls sys.exit"),
        ("networks:calls", "is a list; name a function"),
        ("networks:list_task", 'returns a list; return a dict such as {"data": loader'),
        ("networks:odd_task", "unknown key 'metric'; known are data, loss, evaluate, teacher"),
    ],
)
def test_load_task_refuses(folder, task, expected):
    (folder / "ending.py").write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(FlyweightError, match=expected):
        load_task(task, open_network(TINY, None), "tiny")


def test_open_network_names_the_tensor_that_does_not_fit(folder):
    state = load_file("tiny.safetensors")
    state["8.bias"] = torch.zeros(11)
    save_file(state, "wide.safetensors")
    with pytest.raises(FlyweightError, match=r"8\.bias"):
        open_network("wide.safetensors", TINY)
