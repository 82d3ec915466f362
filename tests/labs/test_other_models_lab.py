"""The lab of other models: post-training, then a third of its bytes."""

import pytest

from benchmarks.report import read_rows
from labs import other_models as lab


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    document = tmp_path / "frontier.md"
    document.write_text(lab.DOCUMENT.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(lab, "DOCUMENT", document)
    monkeypatch.setattr(lab, "RESULTS", tmp_path)
    monkeypatch.setattr(lab, "TRAINED", 512)
    monkeypatch.setattr(lab, "TESTED", 128)
    return tmp_path


def test_a_model_gets_a_third_of_its_bytes_without_training(scratch):
    lab.main(["1-D convolutions", "--epochs", "2", "--device", "cpu"])
    first, second = read_rows("other_models", scratch)
    assert (first["recipe"], second["recipe"]) == ("post-training", "quick")
    assert int(second["asked_bytes"]) == int(first["file_bytes"]) // 3
    # Of 16 steps, the last ones change the scales of a network that has hardly trained before.
    assert int(second["file_bytes"]) == pytest.approx(int(second["asked_bytes"]), rel=0.06)
    assert f"| {int(second['file_bytes'])} |" in (scratch / "frontier.md").read_text()


def test_data_have_as_many_of_each_kind():
    signals, kinds = lab.waves(600, 0)
    assert signals.shape == (600, 1, 256)
    assert kinds.unique().tolist() == [0, 1, 2, 3, 4, 5]
    ids, answers = lab.orders(200, 0)
    first = [row.tolist().index(0) < row.tolist().index(1) for row in ids]
    assert answers.bool().tolist() == first


def test_unknown_models_are_refused():
    with pytest.raises(SystemExit, match="gru is no model; known are 1-D convolutions"):
        lab.main(["gru"])
