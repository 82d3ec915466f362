"""Tests of 8-bit weights and activations, and of their export to ONNX."""

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from flyweight.cifar import create_model
from flyweight.errors import DataError, ModelError
from flyweight.int8 import (
    Int8Layer,
    Observer,
    export_onnx,
    fold_into_convolutions,
    prepare_int8,
)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10)
    )
    for _ in range(3):
        model(1 + 2 * torch.randn(16, 3, 8, 8))
    nn.init.normal_(model[1].weight)
    return model.eval()


def test_observer_averages_ranges_with_zero():
    observer = Observer()
    for batch in ([1.0, 2.0], [3.0, 4.0]):
        seen = observer(torch.tensor(batch))
        assert seen.tolist() == batch
    assert (float(observer.low), float(observer.high)) == (0.0, 3.0)
    observer.observing = False
    assert observer.scale == pytest.approx(3 / 255)
    assert observer.zero_point == -128
    levels = observer(torch.linspace(-1, 5, 2000))
    assert len(levels.unique()) == 256
    assert observer(torch.tensor([0.0, -1.0, 9.0])).tolist() == pytest.approx([0, 0, 3])


def test_observer_clips_a_tail():
    values = torch.cat([random(10_000), torch.tensor([1000.0])])
    observer = Observer(tail=0.001)
    observer(values)
    assert 2.5 < float(observer.high) < 4
    assert -4 < float(observer.low) < -2.5
    with pytest.raises(ModelError, match="up to a half"):
        Observer(tail=0.5)


def test_fold_into_convolutions_keeps_the_function():
    model = create_model("resnet20").eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(generator=torch.Generator().manual_seed(1))
            module.running_var.uniform_(0.5, 2)
    inputs = random(4, 3, 32, 32)
    folded = fold_into_convolutions(model, inputs)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()) == 19
    torch.testing.assert_close(folded(inputs), model(inputs), rtol=1e-3, atol=1e-3)


class Twice(nn.Module):
    """The output of its convolution goes two ways."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        self.norm.running_mean.fill_(3.0)

    def forward(self, inputs):
        found = self.convolution(inputs)
        return self.norm(found) + found


def test_fold_into_convolutions_refuses_outputs_used_elsewhere():
    with pytest.raises(ModelError, match="convolution is used elsewhere too"):
        fold_into_convolutions(Twice(), random(2, 3, 4, 4))


@pytest.mark.parametrize("in_place", [False, True])
def test_fold_into_convolutions_leaves_norms_after_activations(in_place):
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(inplace=in_place), nn.BatchNorm2d(3)).eval()
    nn.init.constant_(model[0].bias, 5.0)  # on the batch to fold with, the activation does nothing
    nn.init.constant_(model[2].bias, 10.0)
    folded = fold_into_convolutions(model, 0.1 * random(2, 3, 4, 4))
    assert [type(layer) for layer in folded] == [type(layer) for layer in model]
    others = 30 * random(8, 3, 4, 4, seed=1)
    assert torch.equal(folded(others), model(others))


class Called(nn.Module):
    """One convolution with two names, and its normalization, called as ``forward`` says."""

    def __init__(self, forward):
        super().__init__()
        self.first = self.second = nn.Conv2d(3, 3, 1)
        self.norm, self.called = nn.BatchNorm2d(3).eval(), forward
        nn.init.constant_(self.norm.running_mean, 3.0)

    def forward(self, inputs):
        return self.called(self, inputs)


@pytest.mark.parametrize(
    ("forward", "kind"),
    [
        (lambda m, x: m.norm(m.second(m.norm(m.first(x)))), nn.Identity),
        (lambda m, x: m.norm(m.second(m.norm(x))), nn.BatchNorm2d),
        (lambda m, x: m.norm(input=m.second(x)), nn.BatchNorm2d),
    ],
)
def test_fold_into_convolutions_folds_norms_after_one_convolution_only(forward, kind):
    model, inputs = Called(forward).eval(), random(2, 3, 4, 4)
    folded = fold_into_convolutions(model, inputs)
    assert isinstance(folded.norm, kind)
    assert folded.first is folded.second
    torch.testing.assert_close(folded(inputs), model(inputs))


def test_fold_into_convolutions_refuses_models_that_do_not_run():
    with pytest.raises(ModelError, match="cannot be traced"):
        fold_into_convolutions(network(), random(2, 5, 8, 8))


@torch.inference_mode()
def test_fold_into_convolutions_works_in_inference_mode():
    inputs = random(2, 3, 8, 8)
    assert isinstance(fold_into_convolutions(network(), inputs)[1], nn.Identity)
    first = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1)).eval()
    assert isinstance(fold_into_convolutions(first, inputs)[0], nn.BatchNorm2d)


class ActivatedNorm(nn.BatchNorm2d):
    """Normalization with its activation."""

    def forward(self, inputs):
        return super().forward(inputs).relu()


class DoubledConvolution(nn.Conv2d):
    """Not what torch makes of its weights."""

    def forward(self, inputs):
        return 2 * super().forward(inputs)


class DoubledLinear(nn.Linear):
    """Not what torch makes of its weights."""

    def forward(self, inputs):
        return 2 * super().forward(inputs)


def doubled(layer, inputs, outputs):
    return 2 * outputs


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("hooked", [False, True])
def test_fold_into_convolutions_leaves_layers_with_hooks(at, hooked):
    layers = [nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)]
    if hooked:
        layers[at].register_forward_hook(doubled)
    else:
        layers[at] = [DoubledConvolution(3, 2, 1), ActivatedNorm(2)][at]
    model, inputs = nn.Sequential(*layers).eval(), random(2, 3, 4, 4)
    nn.init.constant_(model[1].running_mean, 3.0)
    folded = fold_into_convolutions(model, inputs)
    assert isinstance(folded[1], nn.BatchNorm2d)
    assert torch.equal(folded(inputs), model(inputs))


def test_prepare_int8_changes_little_and_keeps_zeros():
    model = network()
    model[0].weight.data[random(8, 3, 3, 3) > 0] = 0
    inputs = random(64, 3, 8, 8, seed=2)
    prepared = prepare_int8(model, inputs.split(16))
    wanted = model(inputs).detach()
    error = (prepared(inputs).detach() - wanted).square().mean()
    assert 0 < float(error) < 0.02 * float(wanted.var())
    assert isinstance(prepared[0], Int8Layer)
    assert not prepared[0].weight()[model[0].weight == 0].any()
    assert 63 < len(prepared[4].weight()[0].unique()) <= 127
    wider = prepare_int8(model, inputs.split(16), reduce_range=False)
    assert 127 < len(wider[4].weight()[0].unique()) <= 255
    assert not any(isinstance(m, Int8Layer) for m in model.modules())


def test_prepare_int8_model_trains():
    prepared = prepare_int8(network(), [random(16, 3, 8, 8)])
    optimizer = torch.optim.SGD(prepared.parameters(), 0.05)
    inputs, labels = random(16, 3, 8, 8, seed=3), torch.arange(16) % 10
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(prepared(inputs), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_int8_layer_keeps_zeros_in_training(optimizer):
    model = network()
    for layer in (model[0], model[4]):
        layer.weight.data[random(*layer.weight.shape, seed=5) > 0] = 0
    prepared = prepare_int8(model, [random(16, 3, 8, 8)]).train()
    before = {at: prepared[at].weight().detach() for at in (0, 4)}
    settings = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
    steps = optimizer(prepared.parameters(), 0.01, weight_decay=0.01, **settings)
    for seed in range(5):
        steps.zero_grad()
        nn.functional.cross_entropy(
            prepared(random(16, 3, 8, 8, seed=seed)), torch.arange(16) % 10
        ).backward()
        steps.step()
    for at, weight in before.items():
        zeros = model[at].weight == 0
        assert 0 < int(zeros.sum()) < zeros.numel()
        assert not prepared[at].weight()[zeros].any()
        assert not prepared[at].layer.weight[zeros].any()
        assert not torch.equal(prepared[at].weight(), weight)


@pytest.mark.parametrize("narrow", [False, True])
def test_int8_layer_state_has_its_range(narrow):
    inputs = random(16, 3, 8, 8)
    source, target = (
        prepare_int8(network(), [inputs], reduce_range=reduce_range)
        for reduce_range in (narrow, not narrow)
    )
    assert not torch.equal(target(inputs), source(inputs))
    target.load_state_dict(source.state_dict())
    assert torch.equal(target(inputs), source(inputs))


def test_int8_layer_ignores_values_of_pruned_weights():
    layer = Int8Layer(nn.Linear(2, 2, bias=False))
    layer.layer.weight.data.copy_(torch.tensor([[0.0, 1.0], [0.5, 0.0]]))
    pruned = Int8Layer(layer.layer)
    pruned.layer.weight.data.fill_(1.0)
    assert pruned.weight().tolist() == [[0.0, 1.0], [1.0, 0.0]]
    pruned.weight().sum().backward()
    assert pruned.layer.weight.grad.tolist() == [[0.0, 1.0], [1.0, 0.0]]


def sessions(path):
    """As the graph is written, and as integers; then a tie may be rounded the other way inside."""
    runtime = pytest.importorskip("onnxruntime")
    for optimize, levels in ((False, 1.01), (True, 2.01)):
        options = runtime.SessionOptions()
        if not optimize:
            options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        yield runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"]), levels


def dead_filter(model):
    model[0].weight.data[2] = 0
    model[1].bias.data[2] = 3.0


def tiny_filter(model):
    model[0].weight.data[2] *= 1e-7
    model[1].running_mean[2] *= 1e-7
    model[1].bias.data[2] = 3.0


def tiny_filter_and_large_bias(model):
    model[0].weight.data[2] *= 1e-4
    model[1].running_mean[2] = -3000.0


def dead_layer(model):
    model[4].weight.data.zero_()


@pytest.mark.parametrize(
    "change", [dead_filter, tiny_filter, tiny_filter_and_large_bias, dead_layer]
)
def test_export_onnx_of_tiny_filters_runs_the_same(tmp_path, change):
    pytest.importorskip("onnx")
    model = network()
    change(model)
    inputs = random(32, 3, 8, 8, seed=4)
    prepared = prepare_int8(model, [inputs])
    export_onnx(prepared, inputs[:2], tmp_path / "int8.onnx")
    wanted = prepared(inputs).detach()
    with torch.no_grad():
        exact = model(inputs)
    level = prepared[4].outputs.scale
    assert float((wanted - exact).square().mean()) <= 0.02 * float(exact.var())
    for session, levels in sessions(tmp_path / "int8.onnx"):
        (found,) = session.run(None, {"images": inputs.numpy()})
        assert float((torch.from_numpy(found) - wanted).abs().max()) <= levels * level


def test_int8_layer_biases_fit_in_32_bits():
    layer = Int8Layer(nn.Linear(3, 3))
    layer.layer.weight.data.copy_(torch.diag(torch.tensor([1.0, 1e-9, 1e-9])))
    layer.layer.bias.data.copy_(torch.tensor([1.0, 0.0, 1e6]))
    layer(torch.ones(1, 3))
    layer.inputs.observing = False
    scales = layer.scales()
    assert float(scales[0]) == pytest.approx(1 / 63)
    assert float(scales[1]) == pytest.approx(2**-16 / 63)
    assert float(1e6 / (scales[2] * layer.inputs.scale)) < 2**30 * 1.001


def test_export_onnx_runs_the_same(tmp_path):
    onnx = pytest.importorskip("onnx")
    inputs = random(32, 3, 8, 8, seed=4)
    prepared = prepare_int8(network(), [inputs])
    export_onnx(prepared, inputs[:2], tmp_path / "int8.onnx")
    kinds = [node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node]
    assert kinds.count("DequantizeLinear") == 6
    assert "BatchNormalization" not in kinds
    wanted = prepared(inputs).detach()
    level = prepared[4].outputs.scale
    for session, levels in sessions(tmp_path / "int8.onnx"):
        (found,) = session.run(None, {"images": inputs.numpy()})
        error = (torch.from_numpy(found) - wanted).abs()
        assert float(error.max()) <= levels * level
        assert float(error.square().mean()) < 0.02 * float(wanted.var())


def test_export_onnx_stores_a_byte_for_each_weight(tmp_path):
    onnx = pytest.importorskip("onnx")
    prepared = prepare_int8(network(), [random(32, 3, 8, 8, seed=4)])
    export_onnx(prepared, random(2, 3, 8, 8), tmp_path / "int8.onnx")
    model = onnx.load(tmp_path / "int8.onnx")
    onnx.checker.check_model(model, full_check=True)
    held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    matrices = [value for value in held.values() if value.ndim > 1]
    assert [value.dtype.name for value in matrices] == ["int8", "int8"]
    assert sorted(value.shape for value in matrices) == [(8, 3, 3, 3), (10, 288)]
    assert {abs(value).max() for value in matrices} == {63}
    # Only activations are rounded while the network runs.
    made = {name for node in model.graph.node for name in node.output}
    rounded = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert len(rounded) == 4
    assert all(node.input[0] in made | {"images"} for node in rounded)


def shifted(inputs: Tensor, decides: Tensor, shift: Tensor) -> Tensor:
    """What only one branch takes is in a graph within the graph."""
    if bool(decides.sum() > 0):
        return inputs + shift
    return inputs - shift


with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # only scripts have branches when traced
    shifted = torch.jit.script(shifted)


class Branching(nn.Module):
    """A tensor that only branches take, chosen by the inputs or by that tensor."""

    def __init__(self, by_inputs):
        super().__init__()
        self.first, self.last, self.by_inputs = nn.Linear(4, 4), nn.Linear(4, 4), by_inputs
        self.shift = nn.Parameter(torch.full((4,), 3.0))

    def forward(self, inputs):
        found = self.first(inputs)
        return self.last(shifted(found, found if self.by_inputs else self.shift, self.shift))


@pytest.mark.parametrize("by_inputs", [False, True])
def test_store_integers_keeps_inputs_of_branches(tmp_path, by_inputs):
    onnx = pytest.importorskip("onnx")
    torch.manual_seed(0)
    inputs = random(64, 4)
    prepared = prepare_int8(Branching(by_inputs), [inputs, -inputs])
    export_onnx(prepared, inputs[:2], tmp_path / "int8.onnx")
    assert "If" in [node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node]
    level = prepared.last.outputs.scale
    for session, levels in sessions(tmp_path / "int8.onnx"):
        for batch in (inputs, -inputs):
            (found,) = session.run(None, {"images": batch.numpy()})
            error = (torch.from_numpy(found) - prepared(batch).detach()).abs()
            assert float(error.max()) <= levels * level


def test_export_onnx_does_not_write_invalid_graphs(tmp_path, monkeypatch):
    pytest.importorskip("onnx")

    def damage(model):
        del model.graph.initializer[:]

    monkeypatch.setattr("flyweight.int8.export.store_integers_", damage)
    with pytest.raises(
        ModelError, match="trace of the model is not valid ONNX, so it is not written"
    ):
        export_onnx(network(), random(2, 3, 8, 8), tmp_path / "float.onnx")
    assert not list(tmp_path.iterdir())


def test_export_onnx_keeps_floats_of_float_models(tmp_path):
    onnx = pytest.importorskip("onnx")
    model = network()
    export_onnx(model, random(2, 3, 8, 8), tmp_path / "float.onnx")
    held = onnx.load(tmp_path / "float.onnx").graph.initializer
    linear = [onnx.numpy_helper.to_array(t) for t in held if list(t.dims) == [10, 288]]
    assert torch.equal(torch.tensor(linear[0]), model[4].weight)


def test_prepare_int8_refuses_what_it_cannot_quantize():
    with pytest.raises(DataError, match="batches is empty"):
        prepare_int8(network(), [])
    with pytest.raises(DataError, match="batches is a Tensor; give a list"):
        prepare_int8(network(), random(2, 3, 8, 8))
    normed = network()
    nn.utils.parametrizations.weight_norm(normed[0])
    with pytest.raises(ModelError, match=r"'0\.weight' has a parametrization, _WeightNorm"):
        prepare_int8(normed, [random(2, 3, 8, 8)])
    with pytest.raises(ModelError, match="no linear layer or 2-D convolution"):
        prepare_int8(nn.Sequential(nn.ReLU()), [random(2, 3)])
    with pytest.raises(ModelError, match=r"a Linear itself; put it into nn\.Sequential"):
        prepare_int8(nn.Linear(3, 2), [random(2, 3)])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_prepare_int8_refuses_other_float_types(dtype):
    with pytest.raises(ModelError, match=rf"layer '0' has weights of {dtype}.*call float\(\)"):
        prepare_int8(network().to(dtype), [random(2, 3, 8, 8).to(dtype)])


def without_outputs():
    layer = nn.Linear(8, 1, bias=False)
    layer.weight = nn.Parameter(torch.zeros(0, 8))
    return layer


@pytest.mark.parametrize("layer", [without_outputs(), nn.LazyLinear(4)])
def test_prepare_int8_refuses_layers_without_weights(layer):
    with pytest.raises(ModelError, match="layer '1' has no weights; remove it"):
        prepare_int8(nn.Sequential(nn.Linear(8, 8), layer), [random(2, 8)])


def replaced_forward(layer):
    layer.forward = lambda inputs: 2 * inputs
    return layer


def hooked(*, before):
    layer = nn.Linear(8, 8)
    if before:
        layer.register_forward_pre_hook(lambda layer, inputs: 2 * inputs[0])
    else:
        layer.register_forward_hook(doubled)
    return layer


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (DoubledLinear(8, 8), "a forward of its own, as a DoubledLinear"),
        (DoubledConvolution(3, 3, 1), "a forward of its own, as a DoubledConvolution"),
        (replaced_forward(nn.Linear(8, 8)), "a forward of its own, as a Linear"),
        (hooked(before=False), "forward hooks"),
        (hooked(before=True), "forward hooks"),
        (prune.random_unstructured(nn.Linear(8, 8), "weight", 0.5), "forward hooks"),
    ],
)
def test_prepare_int8_refuses_layers_with_other_forwards(layer, message):
    with pytest.raises(ModelError, match=f"layer '0' has {message}, which would be lost"):
        prepare_int8(nn.Sequential(layer), [random(2, 3, 8, 8)])


class Plain(nn.Linear):
    """A subclass that computes what its kind does."""


def test_prepare_int8_takes_plain_subclasses():
    assert isinstance(prepare_int8(nn.Sequential(Plain(8, 8)), [random(2, 8)])[0], Int8Layer)


class Choosing(nn.Module):
    """Runs its second layer for positive inputs only."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, inputs):
        found = self.first(inputs)
        return self.second(found) if inputs.sum() > 0 else found


def test_prepare_int8_refuses_layers_that_no_batch_reaches():
    batch = torch.ones(2, 8)
    with pytest.raises(DataError, match="no calibration batch reaches layer 'second'"):
        prepare_int8(Choosing(), [-batch])
    assert isinstance(prepare_int8(Choosing(), [-batch, batch]).second, Int8Layer)


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.full((2, 3, 8, 8), torch.nan), "holds NaN or infinity"),
        (torch.zeros(0, 3, 8, 8), "without examples"),
        ("text", "of type str"),
    ],
)
def test_prepare_int8_refuses_batches_without_examples(batch, message, at):
    batches = [random(2, 3, 8, 8)]
    batches.insert(at, batch)
    with pytest.raises(DataError, match=message):
        prepare_int8(network(), batches)


def test_prepare_int8_refuses_activations_that_are_not_finite():
    with pytest.raises(DataError, match="no activation to measure"):
        Observer()(torch.zeros(0))
    with pytest.raises(ModelError, match="activations hold NaN or infinity"):
        Observer(tail=0.1)(torch.tensor([1.0, torch.inf]))
    broken = network()
    broken[4].weight.data[0] = torch.nan
    with pytest.raises(ModelError, match=r"gives NaN or infinity .* repair the checkpoint"):
        prepare_int8(broken, [random(2, 3, 8, 8)])


class Attending(nn.Module):
    """Attention, of which torch reads the weights, and what calls its layers."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.linear = nn.Linear(8, 4)

    def forward(self, inputs):
        return self.linear(self.attention(inputs, inputs, inputs)[0])


class Reading(nn.Module):
    """Reads the weight of its layer."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 4)

    def forward(self, inputs):
        return nn.functional.linear(inputs, self.linear.weight)


@pytest.mark.parametrize(
    "model",
    [
        Reading(),
        Attending(),
        nn.TransformerEncoderLayer(8, 2, 16),
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
    ],
)
def test_prepare_int8_refuses_modules_that_read_weights(model):
    message = r"nn\.MultiheadAttention, reads the weights of a layer instead of calling it"
    with pytest.raises(ModelError, match=message):
        prepare_int8(model, [random(2, 5, 8)])


class Several(nn.Module):
    """More than one output."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 4)

    def forward(self, inputs):
        return self.linear(inputs), inputs


def test_prepare_int8_takes_several_outputs():
    prepared, inputs = prepare_int8(Several(), [random(64, 8)]), random(2, 8)
    first, second = prepared(inputs)
    assert isinstance(prepared.linear, Int8Layer)
    assert first.shape == (2, 4)
    assert torch.equal(second, inputs)


def test_prepare_int8_takes_pairs_and_mappings():
    inputs = random(64, 8)
    expected = prepare_int8(Several(), [inputs]).linear.inputs.scale
    for batch in ((inputs, torch.zeros(64)), {"inputs": inputs}):
        assert prepare_int8(Several(), [batch]).linear.inputs.scale == expected


def test_fold_into_convolutions_refuses_norms_without_statistics():
    norm = nn.BatchNorm2d(2, track_running_stats=False)
    with pytest.raises(ModelError, match="'1' has no running statistics"):
        prepare_int8(nn.Sequential(nn.Conv2d(3, 2, 1), norm), [random(2, 3, 4, 4)])


class Shared(nn.Module):
    """One layer with two names."""

    def __init__(self):
        super().__init__()
        self.first = self.second = nn.Linear(8, 8)

    def forward(self, inputs):
        return self.second(self.first(inputs))


def test_prepare_int8_quantizes_shared_layers_once():
    prepared = prepare_int8(Shared(), [random(2, 8)])
    assert isinstance(prepared.first, Int8Layer)
    assert prepared.second is prepared.first
