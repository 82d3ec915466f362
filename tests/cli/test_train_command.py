"""train."""

import pytest
import torch
from safetensors.torch import load_file

from flyweight.training import trainer

TRAIN = ("train", "networks:tiny", "-o", "run", "--task", "networks:task", "--device", "cpu")
SHORT = ("--epochs", "2", "--learning-rate", "0.01")


def test_train_writes_weights_and_prints_its_card(folder, cli):
    card = cli(*TRAIN, *SHORT, "--seed", "5", "--json").json()
    assert (card["seed"], card["epochs"], card["parameters"]) == (5, 2, 914)
    arguments = ("--architecture", "networks:tiny", "--task", "networks:task", "--device", "cpu")
    found = cli("evaluate", "run/model.safetensors", *arguments, "--json").json()
    assert found["score"] == card["test_score"]
    assert not (folder / "run" / "checkpoint.pt").exists()


def test_train_prints_a_table_and_its_epochs(folder, cli):
    result = cli(*TRAIN, *SHORT)
    assert result.code == 0
    assert "model.safetensors" in result.out
    assert [line for line in result.err.splitlines() if "epoch" in line] == [
        "flyweight: train, epoch 1 of 2" if "train," in result.err else "flyweight: epoch 1 of 2",
        "flyweight: train, epoch 2 of 2" if "train," in result.err else "flyweight: epoch 2 of 2",
    ]


@pytest.mark.filterwarnings("always:run has no state")
def test_train_resume_without_a_state_starts_and_says_so(folder, cli, refused):
    result = cli(*TRAIN, *SHORT, "--resume", "--quiet")
    assert result.code == 0
    assert result.err == (
        "flyweight: run has no state to resume; the run starts from the beginning\n"
    )
    assert (folder / "run" / "model.safetensors").exists()
    assert "of a finished run; choose another folder" in refused(*TRAIN, *SHORT, "--resume")


def test_train_refuses_a_finished_run_before_it_loads_the_task(folder, cli, refused):
    assert cli(*TRAIN, *SHORT).code == 0
    command = ["networks:failing_task" if part == "networks:task" else part for part in TRAIN]
    assert "of a finished run; choose another folder" in refused(*command, *SHORT)


@pytest.mark.parametrize("epochs", ["0", "-1"])
def test_train_refuses_no_epochs(folder, cli, epochs):
    result = cli(*TRAIN, "--epochs", epochs)
    assert (result.code, result.out) == (2, "")
    assert "--epochs" in result.err
    assert not (folder / "run").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--progressive",), "--progressive has no effect with --task"),
        (("--all-images",), "--all-images has no effect with --task"),
        (("--progressive", "--alternating"), "exclude each other"),
    ],
)
def test_train_refuses_options_that_contradict(folder, refused, options, expected):
    assert expected in refused(*TRAIN, *options)


def test_train_needs_a_task_for_other_networks(folder, refused):
    assert "give --task package.module:function" in refused("train", "networks:tiny", "-o", "run")
    assert "no task for 'resnet21'" in refused("train", "resnet21", "-o", "run")


@pytest.mark.parametrize("states", [0, 1])
def test_train_stopped_says_what_state_there_is_and_resumes(folder, cli, monkeypatch, states):
    real, done = trainer.write_checkpoint, []

    def write(state, path):
        if len(done) < states:
            real(state, path)
            done.append(path.name)
        if len(done) == states:
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "write_checkpoint", write)
    stopped = cli(*TRAIN, *SHORT, "--quiet")
    monkeypatch.setattr(trainer, "write_checkpoint", real)
    assert (stopped.code, stopped.out) == (130, "")
    if states == 0:
        assert "before the end of the first epoch; no weights were written" in stopped.err
        assert not (folder / "run" / "model.safetensors").exists()
        return
    assert (
        "run has the state after the last whole epoch, and the same command with --resume"
        in stopped.err
    )
    again = cli(*TRAIN, *SHORT, "--quiet")
    assert again.code == 2
    assert "resume it with --resume" in again.err
    assert cli(*TRAIN, *SHORT, "--resume", "--quiet").code == 0
    resumed = load_file("run/model.safetensors")
    other = ["other" if part == "run" else part for part in TRAIN]
    assert cli(*other, *SHORT, "--quiet").code == 0
    whole = load_file("other/model.safetensors")
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_train_on_cifar10_passes_its_options(folder, cli, monkeypatch):
    asked = {}

    def train_resnet(architecture, output, **options):
        asked.update(options, architecture=architecture)
        card = {"validation_accuracy": None, "test_accuracy": 0.5}
        return card | {"weights": "last epoch", "device": "cpu"}

    monkeypatch.setattr("flyweight.cifar.train_resnet", train_resnet)
    result = cli("train", "resnet20", "-o", "run", "--alternating", "--all-images", "--seed", "3")
    assert result.code == 0
    assert (asked["architecture"], asked["seed"], asked["split"]) == ("resnet20", 3, "train50k")
    assert asked["augmentation"] == "alternating"
    assert asked["config"].learning_rate == 0.1
    assert "test accuracy" in result.out
