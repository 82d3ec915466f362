"""Every example runs and ends with a file of which the model loads."""

import runpy
from pathlib import Path

import pytest
import torch

from flyweight import inspect

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name, path):
    """Run ``main`` of an example; return its namespace, the model and the size report."""
    example = runpy.run_path(str(EXAMPLES / f"{name}.py"))
    model = example["main"](path)
    report = inspect(path)
    assert report.total_bytes == path.stat().st_size
    return example, model, report


def weights_of(model):
    return [weight for weight in model.state_dict().values() if weight.ndim > 1]


def test_own_loop_writes_pruned_and_quantized_file(tmp_path):
    example, model, _ = run("own_loop", tmp_path / "circle.fly")
    weights = weights_of(model)
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    assert zeros == round(0.9 * sum(weight.numel() for weight in weights))
    assert all(weight[weight != 0].unique().numel() <= 2**4 for weight in weights)
    assert example["accuracy"](model) > 0.95


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true")
def test_huggingface_trainer_writes_pruned_and_quantized_file(tmp_path):
    pytest.importorskip("transformers")
    example, model, report = run("huggingface_trainer", tmp_path / "bert.fly")
    weights = {
        name: weight
        for name, weight in model.state_dict().items()
        if weight.ndim > 1 and "embeddings" not in name
    }
    zeros = sum(int((weight == 0).sum()) for weight in weights.values())
    assert zeros >= round(0.5 * sum(weight.numel() for weight in weights.values()))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert report.total_bytes < 4 * parameters / 4
    batch = torch.utils.data.default_collate(example["examples"]())
    with torch.no_grad():
        found = model(**batch).logits.argmax(1)
    assert (found == batch["labels"]).float().mean() > 0.95


@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.* is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_lightning_trainer_writes_quantized_file(tmp_path):
    pytest.importorskip("pytorch_lightning")
    _, model, _ = run("lightning_trainer", tmp_path / "parity.fly")
    assert all(weight.unique().numel() <= 2**3 for weight in weights_of(model))
    bits = torch.tensor([[i >> k & 1 for k in range(4)] for i in range(16)]).float()
    with torch.no_grad():
        found = model(bits).argmax(1)
    assert (found == bits.sum(1).long() % 2).all()


@pytest.mark.parametrize(
    "name",
    [
        "conv1d",
        "mlp",
        "regression",
        pytest.param("lstm", marks=pytest.mark.slow),
        pytest.param("segmentation", marks=pytest.mark.slow),
        pytest.param("transformer", marks=pytest.mark.slow),
    ],
)
def test_compress_examples_write_file_that_loads(name, tmp_path, monkeypatch, capsys):
    path = EXAMPLES / f"compress_{name}.py"
    for library in ("sklearn", "transformers"):
        if library in path.read_text(encoding="utf-8"):
            pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    names = runpy.run_path(str(path))
    (file,) = tmp_path.glob("*.fly")
    report = names["compressed"].report
    assert report.file_bytes == file.stat().st_size
    assert capsys.readouterr().out.splitlines()[-1].endswith(str(report.score_after))


def test_every_compress_example_is_run():
    names = {path.stem.removeprefix("compress_") for path in EXAMPLES.glob("compress_*.py")}
    assert names == {"conv1d", "lstm", "mlp", "regression", "segmentation", "transformer"}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_examples_fit_one_screen(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 80
