"""Training of copies, in memory and into folders."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from flyweight.errors import CheckpointError, RecipeError
from flyweight.training import TrainingConfig, read_history, train, train_into_folder

CONFIG = TrainingConfig(epochs=3, learning_rate=0.1, ema_decay=0.9, precision="fp32")


def batches():
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(8, 6, generator=generator), torch.arange(8) % 3) for _ in range(4)
    ]  # fmt: skip


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def run(folder, **settings):
    settings = {"config": CONFIG, "device": "cpu", **settings}
    return train_into_folder(network(), batches(), folder, settings.pop("config"), **settings)


def stopped(folder, epoch):
    def stop(text, done, total):
        if text.startswith(f"epoch {epoch}"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(folder, progress=stop)


def test_train_gives_a_new_model_in_evaluation_mode():
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trained = train(model, batches(), CONFIG, device="cpu")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not torch.equal(trained[0].weight, model[0].weight)
    assert model.training
    assert not trained.training


def test_train_refuses_a_run_without_epochs(tmp_path):
    none = dataclasses.replace(CONFIG, epochs=0)
    with pytest.raises(RecipeError, match=r"training\.epochs is 0, so that nothing trains"):
        train(network(), batches(), none)
    with pytest.raises(RecipeError, match=r"training\.epochs is 0"):
        run(tmp_path / "run", config=none)
    assert not (tmp_path / "run").exists()


def test_train_refuses_a_config_of_another_type(tmp_path):
    for call in (
        lambda: train(network(), batches(), {"epochs": 1}, device="cpu"),
        lambda: train_into_folder(network(), batches(), tmp_path / "a", {"epochs": 1}),
    ):
        with pytest.raises(RecipeError, match="config is a dict; give a TrainingConfig"):
            call()


def test_train_into_folder_writes_weights_card_and_history(tmp_path):
    folder = tmp_path / "deep" / "run"
    card = run(
        folder, details={"task": "numbers"}, evaluate=lambda m: m[0].weight.sum().item(), seed=2
    )
    names = {path.name for path in folder.iterdir()}
    assert names == {"model.safetensors", "card.json", "history.jsonl"}
    weights = load_file(folder / "model.safetensors")
    assert card["test_score"] == pytest.approx(float(weights["0.weight"].sum()))
    assert json.loads((folder / "card.json").read_text()) == {
        **card, "training": {**card["training"], "milestones": [0.5, 0.75]}
    }  # fmt: skip
    assert card["task"] == "numbers"
    assert card["parameters"] == 53
    assert (card["seed"], card["epochs"]) == (2, 3)
    assert card["training"]["learning_rate"] == 0.1
    assert card["weights"] == "moving average"
    assert card["validation_score"] is None
    rows = read_history(folder)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[2]["loss"] < rows[0]["loss"]


def test_train_into_folder_writes_the_better_of_last_epoch_and_average(tmp_path):
    """The metric prefers the model that is farther from the start, which the last epoch is."""
    start = network()[0].weight
    distance = lambda model: float((model[0].weight - start).detach().norm())  # noqa: E731
    last = run(tmp_path / "a", validate=distance, metric="distance")
    assert last["weights"] == "last epoch"
    average = run(tmp_path / "b", validate=lambda model: -distance(model))
    assert average["weights"] == "moving average"
    equal = run(tmp_path / "c", validate=lambda model: 0.5)
    assert equal["weights"] == "moving average"
    weights = load_file(tmp_path / "a" / "model.safetensors")
    assert last["validation_distance"] == pytest.approx(
        float((weights["0.weight"] - start).detach().norm())
    )


def test_train_into_folder_validates_every_fifth_epoch(tmp_path):
    run(tmp_path, config=dataclasses.replace(CONFIG, epochs=6), validate=lambda model: 0.25)
    found = [row.get("validation_score") for row in read_history(tmp_path)]
    assert found == [None] * 4 + [0.25, None]


def test_train_into_folder_resumes_to_the_same_weights(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    monkeypatch.setattr("flyweight.training.run.source_commit", lambda: "first")
    stopped(tmp_path / "part", 3)
    with pytest.raises(CheckpointError, match=r"holds checkpoint\.pt of a run that was stopped"):
        run(tmp_path / "part")
    monkeypatch.setattr("flyweight.training.run.source_commit", lambda: "second")
    card = run(tmp_path / "part", resume=True)
    assert card["commits"] == ["first", "second"]
    assert card["commit"] == "second"
    assert card["weights"] == whole["weights"]
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "part")]
    assert files[0] == files[1]
    with pytest.raises(CheckpointError, match=r"model\.safetensors of a finished run"):
        run(tmp_path / "part", resume=True)


DAMAGE = [b'{"epoch": 2, "lo', b"\0" * 40, b"\n\n", b"\xff\xfe\n", b"[1, 2]\n", b'{"commit": [1]}']


@pytest.mark.parametrize("damage", DAMAGE)
def test_train_into_folder_finishes_with_a_damaged_history(tmp_path, damage):
    stopped(tmp_path, 2)
    history = tmp_path / "history.jsonl"
    history.write_bytes(history.read_bytes() + damage)
    card = run(tmp_path, resume=True)
    assert card["epochs"] == 3
    assert (tmp_path / "model.safetensors").exists()
    assert [row["epoch"] for row in read_history(tmp_path) if "epoch" in row] == [1, 2, 3]


def test_train_into_folder_finishes_without_a_history(tmp_path, caplog):
    (tmp_path / "history.jsonl").mkdir()  # nothing can be appended
    card = run(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    assert card["commits"] == []
    assert "epoch 3 cannot be added" in caplog.text


def test_train_into_folder_keeps_its_weights_if_the_card_fails(tmp_path):
    def broken(model):
        raise ValueError("no test data")

    with pytest.raises(ValueError, match="no test data"):
        run(tmp_path, evaluate=broken)
    assert (tmp_path / "model.safetensors").exists()
    assert run(tmp_path, resume=True)["epochs"] == 3
    assert not (tmp_path / "checkpoint.pt").exists()


def test_train_into_folder_names_a_folder_that_cannot_be_created(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be created"):
        run(tmp_path / "file" / "run")


def test_train_into_folder_validates_in_evaluation_mode(tmp_path):
    modes = []

    def validate(model):
        modes.append(any(module.training for module in model.modules()))
        return 0.5

    run(tmp_path, config=dataclasses.replace(CONFIG, epochs=6), validate=validate)
    assert modes == [False, False, False]  # epoch 5, the average, the last epoch


@pytest.mark.parametrize(("first", "second"), [(float("nan"), -2.0), (-2.0, float("nan"))])
def test_train_into_folder_writes_no_model_that_scores_nan(tmp_path, first, second):
    scores = iter([first, second])  # of the average and of the last epoch
    card = run(tmp_path, validate=lambda model: next(scores))
    assert card["validation_score"] == -2.0
    assert card["weights"] == ("last epoch" if second == -2.0 else "moving average")
