"""Compress, save, load and decompress, on networks small enough to follow by hand."""

import copy
import dataclasses
import sys

import pytest
import torch
from torch import nn

from flyweight.compressed import CompressedModel, CompressedTensor
from flyweight.cifar import Cifar10, Split
from flyweight.errors import CheckpointError, FormatError, ModelError
from flyweight.io import decompress, load, save
from flyweight.size_report import inspect
from flyweight.cifar import create_model
from flyweight.compression import compress, quantize
from flyweight.proof_old import compress_to_file, course_ratio
from flyweight.pruning import global_magnitude_masks
from flyweight.recipes import PruningConfig, Recipe, QuantizationConfig
from flyweight.training import TrainingConfig, predict

IMAGES = torch.randint(
    256, (60, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
)


class Convolutional(nn.Module):
    """A network with batch normalisation whose statistics are not the first ones."""

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


class Recurrent(nn.Module):
    """Reads the rows of an image one after the other."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(96, 12, batch_first=True)
        self.linear = nn.Linear(12, 10)

    def forward(self, images):
        return self.linear(self.lstm(images.transpose(1, 2).flatten(2))[0][:, -1])


class Volumetric(nn.Module):
    """A convolution over colour, height and width, whose weight has five dimensions."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(1, 6, 3, stride=2)
        self.linear = nn.Linear(6, 10)

    def forward(self, images):
        return self.linear(self.conv(images[:, None]).mean(dim=(2, 3, 4)))


class Words(nn.Module):
    """Words in, words out: the first table is also the last layer. No images here."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(30, 8)
        self.lstm = nn.LSTM(8, 8)
        self.head = nn.Linear(8, 30)
        self.head.weight = self.embedding.weight

    def forward(self, words):
        return self.head(self.lstm(self.embedding(words))[0])


@pytest.fixture(scope="module")
def data():
    labels = torch.arange(5060) % 10
    return Cifar10(
        Split(IMAGES.repeat(85, 1, 1, 1)[:5060], labels), Split(IMAGES[:40], labels[:40])
    )


def recipe(epochs=0, *, sparsity=0.6, bits=2, **settings):
    training = TrainingConfig(epochs=epochs, batch_size=20, learning_rate=0.05, ema_decay=0.0)
    return Recipe(
        pruning=PruningConfig(sparsity=sparsity, training=training, interval=1),
        sharing=QuantizationConfig(bits=bits, storage="float32", training=training),
        **settings,
    )


def build(factory, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return factory()


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.parametrize("epochs", [0, 1])
@pytest.mark.parametrize("factory", [Convolutional, Recurrent, Volumetric])
def test_saving_and_loading_keep_every_logit_and_every_zero(tmp_path, data, factory, epochs):
    compressed = compress(build(factory), recipe(epochs), data=data)
    size = save(compressed, tmp_path / "model.fly")
    assert size == (tmp_path / "model.fly").stat().st_size
    network = build(factory).eval()
    network.load_state_dict(compressed.state_dict())
    loaded = load(tmp_path / "model.fly", architecture=factory)
    assert not loaded.training
    assert torch.equal(predict(loaded, IMAGES), predict(network, IMAGES))
    assert same(loaded.state_dict(), compressed.state_dict())

    weights = {n: w for n, w in build(factory).named_parameters() if w.ndim >= 2}
    total = sum(w.numel() for w in weights.values())
    zeros = {name: loaded.get_parameter(name) == 0 for name in weights}
    assert sum(int(z.sum()) for z in zeros.values()) == round(0.6 * total)
    for name in weights:
        tensor = compressed[name]
        assert isinstance(tensor, CompressedTensor)
        assert torch.equal(tensor.symbols == 0, zeros[name])
        assert loaded.get_parameter(name).unique().numel() <= 2**2 + 1


def test_without_training_the_smallest_magnitudes_are_the_zeros(data):
    model = build(Convolutional)
    compressed = compress(model, recipe(), data=data)
    weights = {n: w.detach() for n, w in model.named_parameters() if w.ndim >= 2}
    for name, mask in global_magnitude_masks(weights, 0.6).items():
        assert torch.equal(compressed[name].symbols != 0, mask)


@pytest.mark.parametrize("ramp", [0.0, 0.5, 1.0])
def test_the_sparsity_is_reached_however_long_the_ramp(data, ramp):
    asked = recipe(2)
    asked = dataclasses.replace(asked, pruning=dataclasses.replace(asked.pruning, ramp=ramp))
    compressed = compress(build(Convolutional), asked, data=data)
    coded = [t for t in compressed.values() if isinstance(t, CompressedTensor)]
    total = sum(t.symbols.numel() for t in coded)
    assert sum(int((t.symbols == 0).sum()) for t in coded) == round(0.6 * total)


@pytest.mark.parametrize("training", [False, True])
def test_what_is_given_stays_as_it_is(data, training):
    model = build(Convolutional).train(training)
    before = copy.deepcopy(model.state_dict())
    parameters = dict(model.named_parameters())
    compress(model, recipe(1), data=data)
    assert same(model.state_dict(), before)
    assert all(parameters[n] is p and p.grad is None for n, p in model.named_parameters())
    assert model.training == training
    assert not hasattr(model.conv1, "parametrizations")


def test_the_same_input_gives_the_same_bytes(tmp_path, data):
    def size(name, **settings):
        save(compress(build(Convolutional), recipe(1), data=data, **settings), tmp_path / name)
        return (tmp_path / name).read_bytes()

    first = size("first.fly", seed=4)
    torch.manual_seed(99)  # the global state of torch has no part in it
    assert size("second.fly", seed=4) == first
    assert size("third.fly", seed=5) != first


def test_a_teacher_changes_what_is_learnt(data):
    alone = recipe(1)
    training = dataclasses.replace(alone.pruning.training, distillation=0.9)
    taught = dataclasses.replace(
        alone, pruning=dataclasses.replace(alone.pruning, training=training)
    )
    model = build(Convolutional)
    states = [compress(model, r, data=data).state_dict() for r in (alone, taught)]
    assert not same(*states)
    itself = compress(model, taught, data=data, teacher=model).state_dict()
    assert same(itself, states[1])
    other = compress(model, taught, data=data, teacher=build(Convolutional, seed=3)).state_dict()
    assert not same(other, itself)


def test_few_values_alone_and_on_top_of_zeros(tmp_path, data):
    model = build(Convolutional)
    with torch.no_grad():
        model.linear.weight[:, ::2] = 0
    sharing = recipe(1, bits=2).sharing
    compressed = quantize(model, sharing, data=data, seed=3)
    save(compressed, tmp_path / "a.fly")
    loaded = load(tmp_path / "a.fly", architecture=Convolutional)
    assert not loaded.linear.weight[:, ::2].any()
    assert compressed.metadata["recipe"] == "custom"
    for weight in loaded.parameters():
        if weight.ndim >= 2:
            assert weight[weight != 0].unique().numel() <= 4
    assert same(quantize(model, sharing, data=data, seed=3).state_dict(), compressed.state_dict())
    kept = dataclasses.replace(sharing, keep=("linear.*",))
    found = quantize(model, Recipe(sharing=kept), data=data)
    assert isinstance(found["linear.weight"], torch.Tensor)


def test_stages_alone_and_together_have_states_of_their_own(tmp_path, data):
    model, asked = build(Convolutional), recipe(1)
    compress(model, asked, data=data, resume_folder=tmp_path)
    alone = quantize(model, asked, data=data).state_dict()
    assert same(quantize(model, asked, data=data, resume_folder=tmp_path).state_dict(), alone)


def test_what_pruning_keeps_takes_few_values_and_what_sharing_keeps_does_not(data):
    asked = recipe()
    pruning = dataclasses.replace(asked.pruning, keep=("conv1.*",))
    found = compress(build(Convolutional), dataclasses.replace(asked, pruning=pruning), data=data)
    assert isinstance(found["conv1.weight"], CompressedTensor)
    assert found["conv1.weight"].levels.numel() <= 4
    assert bool((found["conv1.weight"].symbols > 0).all())
    sharing = dataclasses.replace(asked.sharing, keep=("conv1.*",))
    found = compress(build(Convolutional), dataclasses.replace(asked, sharing=sharing), data=data)
    assert isinstance(found["conv1.weight"], torch.Tensor)


def test_any_module_and_tied_weights_stored_once(tmp_path, data):
    model = build(Words)
    compressed = compress(model, recipe(dense="float32"), data=data)
    assert compressed.aliases == {"head.weight": "embedding.weight"}
    assert isinstance(compressed["lstm.weight_hh_l0"], CompressedTensor)
    assert isinstance(compressed["embedding.weight"], CompressedTensor)
    assert compressed["head.weight"] is compressed["embedding.weight"]
    assert compressed["head.weight"].sparsity > 0.1
    save(compressed, tmp_path / "words.fly")

    loaded = load(tmp_path / "words.fly", architecture=Words)
    model.load_state_dict(compressed.state_dict())
    words = torch.arange(30)[:, None]
    assert torch.equal(loaded(words), model(words))
    assert loaded.head.weight is loaded.embedding.weight
    account = {row.name: row for row in inspect(tmp_path / "words.fly").rows}
    assert account["head.weight"].total_bytes == 0
    assert account["embedding.weight"].total_bytes > 0
    assert account["head.weight"].parameters == 0


def test_folding_batch_norm_keeps_the_logits(tmp_path, data):
    model = build(Convolutional)
    exact = {"sparsity": 0.0, "bits": 8, "dense": "float32"}
    plain = compress(model, recipe(fold_batch_norm=False, **exact), data=data)
    folded = compress(model, recipe(fold_batch_norm=True, **exact), data=data)
    assert torch.equal(plain["bn1.running_mean"], model.bn1.running_mean)
    assert not folded["bn1.running_mean"].any()
    assert torch.equal(folded["bn2.running_mean"], model.bn2.running_mean)  # nothing to fold into
    save(plain, tmp_path / "plain.fly")
    save(folded, tmp_path / "folded.fly")
    logits = [
        predict(load(tmp_path / name, architecture=Convolutional), IMAGES)
        for name in ("plain.fly", "folded.fly")
    ]
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-5)
    assert (tmp_path / "folded.fly").stat().st_size < (tmp_path / "plain.fly").stat().st_size


def test_dense_floats_are_rounded_to_float16_unless_they_overflow(data):
    model = build(Convolutional)
    with torch.no_grad():
        model.linear.bias[0] = 1e6
    compressed = compress(model, recipe(fold_batch_norm=False), data=data)
    assert torch.equal(compressed["linear.bias"], model.linear.bias)
    assert torch.equal(compressed["bn1.running_var"], model.bn1.running_var.half().float())
    assert compressed["bn1.running_var"].dtype == torch.float32


def test_course_ratio_by_hand():
    # Counts 4, 1, 1 have codewords of 1, 2 and 2 bits; a lone value has one of 1 bit.
    first = CompressedTensor(torch.tensor([[0, 1, 1, 1], [1, 2, 3, 0]]), torch.ones(3))
    second = CompressedTensor(torch.tensor([0, 0, 1, 0]), torch.ones(1))
    assert course_ratio(CompressedModel({"w": first})) == 32 * 8 / (4 * 1 + 2 + 2)
    both = CompressedModel({"w": first, "b": torch.ones(100), "v": second})
    assert course_ratio(both) == 32 * (8 + 4) / (8 + 1)


def test_the_report_is_measured_on_the_file(tmp_path, data, monkeypatch):
    monkeypatch.setattr("flyweight.proof_old.load_cifar10", lambda path, *, progress: data)
    model = build(Convolutional)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    path = tmp_path / "model.fly"
    report = compress_to_file(
        tmp_path / "model.pt", path, recipe(1), architecture=Convolutional, device="cpu", seed=3
    )
    logits = predict(load(path, architecture=Convolutional), data.test.images)
    hits = (logits.argmax(dim=1) == data.test.labels).sum()
    dense = 4 * sum(p.numel() for p in model.parameters())
    assert report.accuracy_after == int(hits) / 40
    assert report.file_bytes == path.stat().st_size
    assert report.dense_bytes == dense
    assert report.compression_ratio == dense / path.stat().st_size
    assert report.reload_identical
    assert report.sparsity == round(0.6 * 872) / 872
    assert (report.recipe, report.epochs, report.seed) == ("custom", 2, 3)
    assert same(decompress(path), load(path, architecture=Convolutional).state_dict())


def test_a_report_of_a_network_that_stays_floats(tmp_path, data, monkeypatch):
    monkeypatch.setattr("flyweight.proof_old.load_cifar10", lambda path, *, progress: data)
    torch.save(build(Convolutional).state_dict(), tmp_path / "model.pt")
    plain = recipe(0)
    kept = dataclasses.replace(plain, sharing=dataclasses.replace(plain.sharing, keep=("*",)))
    report = compress_to_file(
        tmp_path / "model.pt",
        tmp_path / "model.fly",
        kept,
        architecture=Convolutional,
        device="cpu",
    )
    assert report.sparsity == 0
    assert report.reload_identical


def test_loading_needs_the_right_architecture(tmp_path, data):
    save(compress(build(Convolutional), recipe(), data=data), tmp_path / "model.fly")
    with pytest.raises(ModelError, match="give --architecture"):
        load(tmp_path / "model.fly")
    with pytest.raises(CheckpointError, match=r"model\.fly does not fit .* 'lstm.weight_ih_l0'"):
        load(tmp_path / "model.fly", architecture=Recurrent)

    def wider():
        model = Convolutional()
        model.linear = nn.Linear(8, 11)
        return model

    with pytest.raises(CheckpointError, match=r"'linear.bias' has shape \(10,\), not \(11,\)"):
        load(tmp_path / "model.fly", architecture=wider)


def test_a_file_never_makes_anything_be_imported(tmp_path, monkeypatch):
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    metadata = {"architecture": "trap:factory"}
    save(CompressedModel({"w": torch.ones(2)}, metadata=metadata), tmp_path / "model.fly")
    with pytest.raises(ModelError, match="give --architecture"):
        load(tmp_path / "model.fly")
    assert same(decompress(tmp_path / "model.fly"), {"w": torch.ones(2)})
    assert "trap" not in sys.modules


def test_damage_is_named_with_the_file(tmp_path):
    (tmp_path / "model.fly").write_bytes(b"FLYW" + bytes(60))
    with pytest.raises(FormatError, match=r"model\.fly"):
        load(tmp_path / "model.fly", architecture=Convolutional)
    with pytest.raises(FormatError, match=r"model\.fly"):
        decompress(tmp_path / "model.fly")


def test_layers_are_chosen_by_glob(data):
    asked = recipe()
    chosen = dataclasses.replace(asked.pruning, layers=("conv*",), keep=("*2.weight",))
    sharing = dataclasses.replace(asked.sharing, keep=("linear.*",))
    compressed = compress(build(Convolutional), Recipe(pruning=chosen, sharing=sharing), data=data)
    coded = {n: t.sparsity for n, t in compressed.items() if isinstance(t, CompressedTensor)}
    assert coded == {"conv1.weight": pytest.approx(0.6, abs=0.01), "conv2.weight": 0.0}
    nothing = dataclasses.replace(asked.pruning, keep=("*",))
    with pytest.raises(ModelError, match="leave no weight"):
        compress(build(Convolutional), dataclasses.replace(asked, pruning=nothing), data=data)


def test_what_is_to_stay_floats_and_is_not_there_is_refused_before_training(data, monkeypatch):
    monkeypatch.setattr("flyweight.compression.prune_", lambda *_, **__: pytest.fail("it was pruned"))
    recipe = Recipe(sharing=QuantizationConfig(keep=("stem*",)))
    with pytest.raises(ModelError, match=r"the layer pattern 'stem\*' matches no parameter"):
        compress(Convolutional(), recipe, data=data, device="cpu")


def test_more_zeros_than_asked_for_are_a_warning(data):
    model = build(Convolutional)
    nn.init.zeros_(model.conv2.weight)
    with pytest.warns(UserWarning, match=r"sparsity 0\.\d+ was reached where 0.1000 was asked"):
        compressed = compress(model, recipe(sparsity=0.1), data=data)
    assert not compressed.state_dict()["conv2.weight"].any()
    assert compressed["conv2.weight"].levels.numel() == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(data, value):
    model = build(Convolutional)
    model.bn2.running_mean[3] = value
    with pytest.raises(ModelError, match=r"'bn2.running_mean' holds 1 values"):
        compress(model, recipe(), data=data)


def test_a_model_without_parameters_is_refused(data):
    with pytest.raises(ModelError, match="no parameters"):
        compress(nn.Flatten(), recipe(), data=data)


def test_pruning_everything_is_refused(data):
    with pytest.raises(ModelError, match="leaves none of the"):
        compress(build(Convolutional), recipe(sparsity=0.999999), data=data)


def test_a_file_without_names_builds_its_network_once(tmp_path):
    state = create_model("resnet20").state_dict()
    save(CompressedModel(state, metadata={"architecture": "resnet20"}), tmp_path / "x.fly")
    built = []

    def architecture():
        built.append(create_model("resnet20", seed=1))
        return built[-1]

    model = load(tmp_path / "x.fly", architecture=architecture)
    assert built == [model]
    assert not model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
