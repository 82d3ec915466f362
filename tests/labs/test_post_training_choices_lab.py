"""What was chosen without training: the row "as it is" is what is published, the others differ."""

import pytest
import torch
from torch import nn

from benchmarks import peers
from benchmarks.report import read_rows
from flyweight.batch_norm import reestimate_batch_norms_
from flyweight.cifar import Cifar10
from flyweight.io import load, load_state_dict
from labs import post_training
from labs import post_training_choices as lab


def network(name="resnet20"):
    """A small network in the place of the shipped one."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 10),
    )
    for parameter in (model[0].weight, model[5].weight, model[5].bias):
        nn.init.normal_(parameter, 0, 0.3, generator=generator)
    reestimate_batch_norms_(model, [torch.randn(64, 3, 32, 32, generator=generator)])
    return model.eval()


@pytest.fixture
def scratch(borrowed, noise, monkeypatch):
    """The folder of the lab, and its data; no NNCodec, few weights, few images held out."""
    data = noise(120)
    folder = borrowed(lab, data)
    splits = {"train45k": data.train, "validation": data.test}
    monkeypatch.setattr(Cifar10, "split", lambda self, which: splits[which])
    monkeypatch.setattr(lab, "load_pretrained", network)
    monkeypatch.setattr(post_training, "load_pretrained", network)
    monkeypatch.setattr(lab, "load", lambda path: load(path, architecture=network))
    monkeypatch.setattr(post_training, "CALIBRATION", 8)
    monkeypatch.setattr(post_training, "STATISTICS", 1)
    monkeypatch.setattr(peers, "NNCODEC_PYTHON", folder / "none")
    return folder, data


def test_rows_have_names_of_their_own():
    names = [exercise.name for exercise in lab.exercises()]
    assert len(set(names)) == len(names)


def test_as_it_is_is_what_the_curve_is_made_by(scratch, capsys):
    folder, data = scratch
    name = "flyweight 4e-08, as it is"
    lab.main([name, "--device", "cpu"])
    (row,) = read_rows(lab.NAME, folder)
    assert int(row["bytes"]) == post_training.write_ours(4e-8, data, 0, folder / "published.fly")
    batches = post_training.calibration_batches(data, 0)
    lab.write_ours(lab.Exercise("", "as it is", price=4e-8), batches, folder / "choice.fly")
    published, choice = (
        load_state_dict(folder / "published.fly"),
        load_state_dict(folder / "choice.fly"),
    )
    assert published.keys() == choice.keys()
    assert all(torch.equal(published[name], choice[name]) for name in published)
    assert float(row["divergence"]) > 0
    assert f"| {name} | {int(row['bytes']):,} |" in (folder / "quantization.md").read_text()
    capsys.readouterr()
    lab.main([name, "--device", "cpu"])
    assert capsys.readouterr().out == ""  # nothing is measured twice
    lab.main(["NNCodec"])
    assert "nncodec is left out" in capsys.readouterr().out


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The batches that rows are made with, and the tensors of each row's file."""
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randn(64, 3, 32, 32, generator=generator) for _ in range(2)]
    path, states = tmp_path_factory.mktemp("choices") / "a.fly", {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lab, "load_pretrained", network)
        for otherwise in lab.OURS:
            lab.write_ours(lab.Exercise("", otherwise, price=1e-5), batches, path)
            states[otherwise] = load_state_dict(path)
    return batches, states


def unlike(written, otherwise):
    """Names of the tensors that differ from the row "as it is"."""
    _, states = written
    usual, other = states["as it is"], states[otherwise]
    return {name for name in usual if not torch.equal(usual[name], other[name])}


@pytest.mark.parametrize("otherwise", ["layers by Fisher information alone", "each weight alone"])
def test_weights_that_are_chosen_otherwise(written, otherwise):
    assert {"0.weight", "5.weight"} <= unlike(written, otherwise)


@pytest.mark.parametrize(
    "otherwise", ["batch normalization as it was", "statistics of the calibration images"]
)
def test_batch_normalisation_that_is_corrected_otherwise(written, otherwise):
    batches, states = written
    assert unlike(written, otherwise) == {"1.weight", "1.bias", "5.bias"}
    expected = network()
    if "images" in otherwise:
        expected[0].weight.data.copy_(states[otherwise]["0.weight"])
        reestimate_batch_norms_(expected, batches)
    norm = expected[1]
    scale = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach()
    assert torch.equal(states[otherwise]["1.weight"], scale.bfloat16().float())


def test_biases_that_are_left(written):
    _, states = written
    assert unlike(written, "biases as they were") == {"5.bias"}
    bias = network()[5].bias.detach().bfloat16().float()
    assert torch.equal(states["biases as they were"]["5.bias"], bias)


@pytest.mark.parametrize("bits", [6, 4])
def test_vectors_of_fewer_bits(written, bits):
    _, states = written
    otherwise = f"vectors of {bits} bits"
    assert unlike(written, otherwise) <= {"1.weight", "1.bias", "1.running_var", "5.bias"}
    for name in ("1.weight", "1.bias", "5.bias"):
        usual, few = states["as it is"][name], states[otherwise][name]
        mantissas = torch.frexp(few).mantissa * 2**bits
        assert torch.equal(mantissas, mantissas.round())
        torch.testing.assert_close(few, usual, rtol=2.0**-bits, atol=0)


def test_every_row_of_ours_is_written_here(written):
    _, states = written
    assert len(states) == len(lab.OURS)
    assert all(unlike(written, otherwise) for otherwise in lab.OURS if otherwise != "as it is")
