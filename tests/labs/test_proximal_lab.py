"""The lab of proximal training, on a few images of noise."""

import numpy as np
import pytest
import torch

from benchmarks.report import read_rows
from flyweight.cifar import Cifar10, Split, predict
from labs import proximal as lab
from labs.dense import load_pretrained


class NothingHeldOut(Cifar10):
    """CIFAR-10 whose training images are all trained on."""

    def split(self, which):
        return self.test if which == "test" else self.train


@pytest.fixture
def scratch(borrowed, noise):
    """Noise with the labels that the network gives it: at others, training would diverge."""
    data = noise(48)
    images = data.train.images[:48]
    answers = predict(load_pretrained("resnet20"), images).argmax(1)
    return borrowed(lab, NothingHeldOut(Split(images, answers), data.test))


def test_proximal_runs_have_exact_zeros_where_l1_in_the_loss_has_none(scratch, capsys):
    arguments = ["--epochs", "2", "--batch-size", "16", "--strength", "0.05", "--device", "cpu"]
    lab.main(arguments)
    rows = {row["run"]: row for row in read_rows("proximal", scratch)}
    assert list(rows) == list(lab.RUNS)
    zeros = {name: int(row["zeros"]) for name, row in rows.items()}
    assert zeros["L1 in the loss"] == 0
    assert zeros["L1, proximal"] > 10_000
    assert int(rows["group lasso, proximal"]["zero_filters"]) > 0
    assert int(rows["L1, proximal"]["zero_filters"]) < int(rows["L1, proximal"]["filters"])
    for row in rows.values():
        assert row["zeros_in_file"] == row["zeros"]
        assert 0 < int(row["file_bytes"]) < 300_000
        assert (row["epochs"], row["strength"], row["seed"]) == ("2", "0.05", "0")
        assert row["commit"]
    text = (scratch / "proximal.md").read_text(encoding="utf-8")
    assert "| L1, proximal | frozen | 0.05 | 39 | 0.01 | 2 |" in text
    assert "Not measured yet." not in text
    assert (scratch / "proximal.svg").stat().st_size < 200_000
    assert not list((scratch / "states").glob("**/*.pt"))
    capsys.readouterr()
    lab.main(arguments)  # all there already
    assert capsys.readouterr().out == ""


def test_both_forms_of_l1_pull_with_the_same_force():
    for run in ("L1 in the loss", "L1, proximal"):
        model = torch.nn.Linear(4, 2)
        torch.nn.init.constant_(model.weight, 10.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        lab.attachments(model, 0.5)[run](optimizer)
        for _ in range(100):
            model.weight.grad = torch.zeros_like(model.weight)
            optimizer.step()
        moved = 10 - model.weight.detach()
        # In the loss the pull builds up over some ten steps; then it is μ·λ / (1 − momentum).
        np.testing.assert_allclose(moved, 100 * 0.05 - (0.45 if "loss" in run else 0), rtol=1e-3)


def test_unknown_runs_are_refused(capsys):
    with pytest.raises(SystemExit):
        lab.main(["nothing"])
    assert "there are L1 in the loss" in capsys.readouterr().err
