"""What was chosen without training: the row "as it is" is what is published, the others differ."""

import pytest
import torch

from benchmarks import peers
from benchmarks.report import read_rows
from flyweight.data import Cifar10, Split
from labs import post_training
from labs import post_training_choices as lab


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Results and document in a folder of their own, noise for data, no NNCodec."""
    pixels = torch.randint(256, (100, 3, 32, 32), dtype=torch.uint8)
    train = Split(pixels.repeat(52, 1, 1, 1)[:5120], torch.arange(5120) % 10)
    data = Cifar10(train, Split(pixels[:20], torch.arange(20) % 10))
    monkeypatch.setattr(lab, "load_cifar10", lambda path: data)
    monkeypatch.setattr(
        Cifar10, "split", lambda self, which: self.train if "45" in which else self.test
    )
    monkeypatch.setattr(lab, "RESULTS", tmp_path)
    monkeypatch.setattr(post_training, "CALIBRATION", 8)
    monkeypatch.setattr(post_training, "STATISTICS", 1)
    monkeypatch.setattr(peers, "NNCODEC_PYTHON", tmp_path / "none")
    monkeypatch.setattr(lab, "DOCUMENT", tmp_path / "quantization.md")
    text = f"<!-- results: python -m labs.{lab.NAME} -->\n<!-- end of results -->\n"
    (tmp_path / "quantization.md").write_text(text)
    return tmp_path, data


def test_rows_have_names_of_their_own():
    names = [exercise.name for exercise in lab.exercises()]
    assert len(set(names)) == len(names)


def test_as_it_is_is_what_the_curve_is_made_by(scratch, capsys):
    folder, data = scratch
    name = "flyweight 4e-08, as it is"
    lab.main([name, "--device", "cpu"])
    (row,) = read_rows(lab.NAME, folder)
    assert int(row["bytes"]) == post_training.write_ours(4e-8, data, 0, folder / "published.fly")
    assert float(row["divergence"]) > 0
    assert f"| {name} | {int(row['bytes']):,} |" in (folder / "quantization.md").read_text()
    capsys.readouterr()
    lab.main([name, "--device", "cpu"])
    assert capsys.readouterr().out == ""  # nothing is measured twice
    lab.main(["NNCodec"])
    assert "nncodec is left out" in capsys.readouterr().out
