"""compress(): bytes, zeros and outputs on networks small enough to follow by hand."""

import copy
import dataclasses
import subprocess
import sys

import pytest
import torch
from torch import nn

from flyweight.batches import inputs_of
from flyweight.compressed import CompressedModel, CompressedTensor
from flyweight.compression import compress, course_ratio, remove_states
from flyweight.errors import ModelError
from flyweight.io import load, save
from flyweight.pruning import PruningConfig, global_magnitude_masks
from flyweight.quantization import QuantizationConfig
from flyweight.recipes import Recipe
from flyweight.training import TrainingConfig

IMAGES = torch.randn(60, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(60) % 10
DATA = list(zip(IMAGES.split(20), LABELS.split(20), strict=True))


class Convolutional(nn.Module):
    """A network with batch normalization whose statistics are not the initial ones."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, stride=2, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, stride=2, bias=False)
        self.bn2 = nn.BatchNorm2d(8, affine=False)
        self.linear = nn.Linear(8, 10)
        for norm in (self.bn1, self.bn2):
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.01, 3)
        nn.init.uniform_(self.bn1.weight, 0.5, 2)
        nn.init.normal_(self.bn1.bias)

    def forward(self, images):
        x = torch.relu(self.bn1(self.conv1(images)))
        return self.linear(torch.relu(self.bn2(self.conv2(x))).mean(dim=(2, 3)))


class Volumetric(nn.Module):
    """A convolution over color, height and width, whose weight has five dimensions."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(1, 6, 3, stride=2)
        self.linear = nn.Linear(6, 10)

    def forward(self, images):
        return self.linear(self.conv(images[:, None]).mean(dim=(2, 3, 4)))


def recipe(epochs=0, *, sparsity=0.6, bits=2, **settings):
    training = TrainingConfig(epochs=epochs, learning_rate=0.05)
    return Recipe(
        pruning=PruningConfig(sparsity=sparsity, interval=1),
        retraining=training,
        quantization=QuantizationConfig(bits=bits, level_dtype="float32"),
        fine_tuning=training,
        **settings,
    )


def build(factory, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return factory()


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def pruned(asked, **changes):
    return dataclasses.replace(asked, pruning=dataclasses.replace(asked.pruning, **changes))


def quantized(asked, **changes):
    return dataclasses.replace(
        asked, quantization=dataclasses.replace(asked.quantization, **changes)
    )


@pytest.mark.parametrize("epochs", [0, 1])
@pytest.mark.parametrize("factory", [Convolutional, Volumetric])
def test_compress_keeps_outputs_and_zeros_through_the_file(tmp_path, factory, epochs):
    compressed = compress(build(factory), recipe(epochs), data=DATA)
    assert compressed.report.outputs_identical
    size = save(compressed, tmp_path / "model.fly")
    assert size == (tmp_path / "model.fly").stat().st_size == compressed.report.file_bytes
    network = build(factory).eval()
    network.load_state_dict(compressed.state_dict())
    loaded = load(tmp_path / "model.fly", build(factory, seed=5))
    assert not loaded.training
    assert torch.equal(loaded(IMAGES), network(IMAGES))
    assert same(loaded.state_dict(), compressed.state_dict())

    weights = {n: w for n, w in build(factory).named_parameters() if w.ndim >= 2}
    total = sum(w.numel() for w in weights.values())
    zeros = {name: loaded.get_parameter(name) == 0 for name in weights}
    assert sum(int(z.sum()) for z in zeros.values()) == round(0.6 * total)
    assert compressed.report.sparsity == pytest.approx(round(0.6 * total) / total)
    for name in weights:
        tensor = compressed[name]
        assert isinstance(tensor, CompressedTensor)
        assert torch.equal(tensor.symbols == 0, zeros[name])
        assert loaded.get_parameter(name).unique().numel() <= 2**2 + 1


def test_compress_without_training_prunes_the_smallest_magnitudes():
    model = build(Convolutional)
    compressed = compress(model, recipe(), data=DATA)
    weights = {n: w.detach() for n, w in model.named_parameters() if w.ndim >= 2}
    for name, mask in global_magnitude_masks(weights, 0.6).items():
        assert torch.equal(compressed[name].symbols != 0, mask)


@pytest.mark.parametrize("ramp", [0.0, 0.5, 1.0])
def test_compress_reaches_the_sparsity_with_any_ramp(ramp):
    compressed = compress(build(Convolutional), pruned(recipe(2), ramp=ramp), data=DATA)
    coded = [t for t in compressed.values() if isinstance(t, CompressedTensor)]
    total = sum(t.symbols.numel() for t in coded)
    assert sum(int((t.symbols == 0).sum()) for t in coded) == round(0.6 * total)


@pytest.mark.parametrize("asked", [recipe(1), "post-training"])
@pytest.mark.parametrize("training", [False, True])
def test_compress_leaves_the_model_as_it_is(training, asked):
    model = build(Convolutional).train(training)
    before = copy.deepcopy(model.state_dict())
    parameters = dict(model.named_parameters())
    compress(model, asked, data=DATA)
    assert same(model.state_dict(), before)
    assert all(parameters[n] is p and p.grad is None for n, p in model.named_parameters())
    assert model.training == training
    assert not hasattr(model.conv1, "parametrizations")


def test_compress_gives_the_same_bytes_for_the_same_seed():
    dropout = nn.Sequential(nn.Flatten(), nn.Linear(768, 16), nn.Dropout(), nn.Linear(16, 10))
    first = compress(dropout, recipe(1), data=DATA, seed=4).to_bytes()
    torch.manual_seed(99)  # the global state of torch has no part in it
    assert compress(dropout, recipe(1), data=DATA, seed=4).to_bytes() == first
    assert compress(dropout, recipe(1), data=DATA, seed=5).to_bytes() != first


def shuffled():
    return torch.utils.data.DataLoader(
        [*zip(IMAGES, LABELS, strict=True)], batch_size=20, shuffle=True
    )


SEEDED = {
    "post-training": "post-training",
    "taylor": pruned(recipe(1), criterion="taylor", calibration_examples=20),
    "fisher": quantized(recipe(1), importance="fisher", calibration_examples=20),
}


@pytest.mark.parametrize("asked", SEEDED.values(), ids=SEEDED)
def test_compress_gives_the_same_bytes_with_a_loader_that_shuffles(asked):
    first = compress(build(Convolutional), asked, data=shuffled(), seed=4).to_bytes()
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again = compress(build(Convolutional), asked, data=shuffled(), seed=4).to_bytes()
    assert again == first
    assert torch.equal(torch.get_rng_state(), before)
    assert compress(build(Convolutional), asked, data=shuffled(), seed=5).to_bytes() != first


def test_compress_resumes_with_a_loader_that_shuffles(tmp_path):
    class StoppedError(Exception):
        pass

    def stop(phase, done, total):
        if "fine-tune" in phase:
            raise StoppedError

    asked = SEEDED["taylor"]
    whole = compress(build(Convolutional), asked, data=shuffled())
    with pytest.raises(StoppedError):
        compress(build(Convolutional), asked, data=shuffled(), resume=tmp_path, progress=stop)
    resumed = compress(build(Convolutional), asked, data=shuffled(), resume=tmp_path)
    assert resumed.report.seconds is None
    assert resumed.to_bytes() == whole.to_bytes()


def test_compress_starts_again_with_another_loss_or_other_batches(tmp_path):
    def loss(model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1], label_smoothing=0.1)

    def repaired():
        def loss(model, batch):  # of the same name
            return nn.functional.cross_entropy(model(batch[0]), batch[1])

        return loss

    runs = {
        compress(build(Convolutional), recipe(1), data=data, loss=own, resume=tmp_path).report.run
        for data, own in ((DATA, None), (DATA, loss), (DATA, repaired()), (DATA[:2], None))
    }
    assert len(runs) == 4


def test_compress_finds_its_states_in_another_process(tmp_path):
    program = """if True:
        import sys, torch, flyweight as fw
        def criterion(weight):
            return weight.abs()
        torch.manual_seed(0)
        recipe = fw.Recipe(pruning=fw.PruningConfig(criterion=criterion))
        data = [(torch.ones(4, 3), torch.zeros(4, dtype=torch.long))]
        model = torch.nn.Linear(3, 2)
        print(fw.compress(model, recipe, data=data, device="cpu", resume=sys.argv[1]).report.run)
    """
    runs = [
        subprocess.run(
            [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ]
    assert runs[0] == runs[1] != ""


def test_compress_keeps_its_network_from_evaluate():
    def evaluate(model):
        model.requires_grad_(False)
        with torch.no_grad():
            model.linear.weight.zero_()
        return 1.0

    asked = recipe(1)
    found = compress(build(Convolutional), asked, data=DATA, evaluate=evaluate)
    assert found.to_bytes() == compress(build(Convolutional), asked, data=DATA).to_bytes()


def test_compress_distills_from_the_model_or_a_teacher():
    alone = recipe(1)
    training = dataclasses.replace(alone.retraining, distillation=0.9)
    distilled = dataclasses.replace(alone, retraining=training)
    model = build(Convolutional)
    states = [compress(model, r, data=DATA).state_dict() for r in (alone, distilled)]
    assert not same(*states)
    itself = compress(model, distilled, data=DATA, teacher=model).state_dict()
    assert same(itself, states[1])
    teacher = build(Convolutional, seed=3)
    assert not same(compress(model, distilled, data=DATA, teacher=teacher).state_dict(), itself)


def test_compress_quantization_alone_keeps_zeros(tmp_path):
    model = build(Convolutional)
    with torch.no_grad():
        model.linear.weight[:, ::2] = 0
    config = QuantizationConfig(bits=2, level_dtype="float32")
    save(compress(model, config, data=DATA), tmp_path / "a.fly")
    loaded = load(tmp_path / "a.fly", build(Convolutional))
    assert not loaded.linear.weight[:, ::2].any()
    for weight in loaded.parameters():
        if weight.ndim >= 2:
            assert weight[weight != 0].unique().numel() <= 4
    floats = compress(model, dataclasses.replace(config, exclude=("linear.*",)), data=DATA)
    assert isinstance(floats["linear.weight"], torch.Tensor)


def test_compress_pruning_alone_has_exact_zeros():
    compressed = compress(build(Convolutional), PruningConfig(sparsity=0.5), data=DATA)
    assert compressed.report.sparsity == pytest.approx(0.5, abs=0.01)
    assert compressed.report.course_ratio is None


def test_compress_resumes_and_removes_its_states_alone(tmp_path):
    class StoppedError(Exception):
        pass

    def stop_in_fine_tuning(phase, done, total):
        if "fine-tune" in phase and done == total:
            raise StoppedError

    model, asked = build(Convolutional), recipe(2)
    (tmp_path / "notes.txt").write_text("stays")
    whole = compress(model, asked, data=DATA)
    with pytest.raises(StoppedError):
        compress(model, asked, data=DATA, resume=tmp_path, progress=stop_in_fine_tuning)
    assert [*tmp_path.glob("*/prune.pt")]
    resumed = compress(model, asked, data=DATA, resume=tmp_path)
    assert resumed.to_bytes() == whole.to_bytes()
    assert resumed.report.seconds is None
    assert whole.report.seconds > 0
    with pytest.raises(StoppedError):  # another run in the same folder
        compress(model, asked, data=DATA, seed=5, resume=tmp_path, progress=stop_in_fine_tuning)
    remove_states(tmp_path, resumed.report.run)
    (other,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert (tmp_path / "notes.txt").read_text() == "stays"
    finished = compress(model, asked, data=DATA, seed=5, resume=tmp_path)
    assert other.name == finished.report.run != resumed.report.run
    remove_states(tmp_path, finished.report.run)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_compress_stages_alone_and_together_have_states_of_their_own(tmp_path):
    model, asked = build(Convolutional), recipe(1)
    compress(model, asked, data=DATA, resume=tmp_path)
    alone = dataclasses.replace(asked, pruning=None)
    expected = compress(model, alone, data=DATA).to_bytes()
    assert compress(model, alone, data=DATA, resume=tmp_path).to_bytes() == expected


def test_compress_excludes_from_each_stage_alone():
    found = compress(build(Convolutional), pruned(recipe(), exclude=("conv1.*",)), data=DATA)
    assert found["conv1.weight"].levels.numel() <= 4
    assert bool((found["conv1.weight"].symbols > 0).all())
    found = compress(build(Convolutional), quantized(recipe(), exclude=("conv1.*",)), data=DATA)
    assert isinstance(found["conv1.weight"], torch.Tensor)


def test_compress_folds_batch_norm_without_changing_outputs():
    model = build(Convolutional)
    exact = {"sparsity": 0.0, "bits": 8, "float_dtype": "float32"}
    plain = compress(model, recipe(fold_batch_norm=False, **exact), data=DATA)
    folded = compress(model, recipe(fold_batch_norm=True, **exact), data=DATA)
    assert torch.equal(plain["bn1.running_mean"], model.bn1.running_mean)
    assert not folded["bn1.running_mean"].any()
    assert torch.equal(folded["bn2.running_mean"], model.bn2.running_mean)  # nothing to fold into
    outputs = []
    for compressed in (plain, folded):
        model = build(Convolutional).eval()
        model.load_state_dict(compressed.state_dict())
        outputs.append(model(IMAGES))
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
    assert len(folded.to_bytes()) < len(plain.to_bytes())


def test_compress_rounds_floats_unless_they_overflow():
    model = build(Convolutional)
    with torch.no_grad():
        model.linear.bias[0] = 1e6
    compressed = compress(model, recipe(fold_batch_norm=False), data=DATA)
    assert torch.equal(compressed["linear.bias"], model.linear.bias)
    assert torch.equal(compressed["bn1.running_var"], model.bn1.running_var.half().float())
    assert compressed["bn1.running_var"].dtype == torch.float32


def test_compress_trains_a_network_read_from_a_file():
    compressed = compress(build(Convolutional), recipe(fold_batch_norm=True), data=DATA)
    folded = build(Convolutional)
    folded.load_state_dict(compressed.state_dict())
    again = compress(folded, recipe(1), data=DATA)
    assert again.report.outputs_identical


def test_compress_report_is_measured_on_the_file_read_back(tmp_path):
    def accuracy(model):
        assert not model.training
        return (model(IMAGES).argmax(1) == LABELS).double().mean().item()

    model = build(Convolutional)
    compressed = compress(model, recipe(1), data=DATA, evaluate=accuracy, device="cpu", seed=3)
    report = compressed.report
    save(compressed, tmp_path / "model.fly")
    dense = 4 * sum(p.numel() for p in model.parameters())
    assert report.score_before == accuracy(model.eval())
    assert report.score_after == accuracy(load(tmp_path / "model.fly", build(Convolutional)))
    assert report.dense_bytes == dense
    assert report.compression_ratio == dense / (tmp_path / "model.fly").stat().st_size
    assert (report.recipe, report.epochs, report.seed) == ("custom", 2, 3)
    assert "score after" in str(report)
    assert report.to_dict()["outputs_identical"] is True


def test_compress_reports_outputs_that_differ(monkeypatch):
    real = CompressedModel.from_bytes

    def damaged(data):
        found = real(data)
        tensors = dict(found.tensors)
        tensors["linear.bias"] = tensors["linear.bias"] + 1
        tensors["conv1.weight"] = torch.ones(8, 3, 3, 3)  # no zeros
        return CompressedModel(tensors, found.aliases, found.metadata)

    monkeypatch.setattr(CompressedModel, "from_bytes", staticmethod(damaged))
    report = compress(build(Convolutional), recipe(), data=DATA).report
    assert not report.outputs_identical
    assert report.sparsity < 0.5


def test_course_ratio_by_hand():
    # Counts 4, 1, 1 have codewords of 1, 2 and 2 bits; a lone value has one of 1 bit.
    first = CompressedTensor(torch.tensor([[0, 1, 1, 1], [1, 2, 3, 0]]), torch.ones(3))
    second = CompressedTensor(torch.tensor([0, 0, 1, 0]), torch.ones(1))
    assert course_ratio(CompressedModel({"w": first})) == 32 * 8 / (4 * 1 + 2 + 2)
    both = CompressedModel({"w": first, "b": torch.ones(100), "v": second})
    assert course_ratio(both) == 32 * (8 + 4) / (8 + 1)


def test_compress_phases_have_names():
    phases = []
    compress(
        build(Convolutional),
        recipe(1),
        data=DATA,
        evaluate=lambda model: 1.0,
        progress=lambda phase, done, total: phases.append(phase),
    )
    names = list(dict.fromkeys(phase.partition(",")[0] for phase in phases))
    assert names == [
        "evaluate the model as given",
        "prune and retrain",
        "quantize and fine-tune",
        "encode",
        "evaluate the file read back",
    ]


def test_compress_refuses_to_prune_everything():
    with pytest.raises(ModelError, match="leaves none of the"):
        compress(build(Convolutional), recipe(sparsity=0.999999), data=DATA)


@pytest.mark.parametrize("batch", DATA[:1])
def test_compress_takes_inputs_alone_for_a_recipe_without_training(batch):
    compressed = compress(build(Convolutional), data=[inputs_of(batch)] * 4)
    assert compressed.report.outputs_identical
    assert compressed.report.epochs == 0
