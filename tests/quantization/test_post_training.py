"""Tests of post-training quantization of any model."""

import copy
import logging
import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from flyweight.batch_norm import reestimate_batch_norms_
from flyweight.compressed import CompressedModel, compress_module
from flyweight.errors import DataError, ModelError
from flyweight.int8 import prepare_int8
from flyweight.modules import attach_
from flyweight.pruning import MaskedWeight
from flyweight.quantization import PostTrainingConfig, layer_rounding, quantize_post_training


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def quantize(model, data, loss_per_bit=1e-6, **settings):
    config = PostTrainingConfig(loss_per_bit=loss_per_bit, **settings)
    return quantize_post_training(model, data, config)


def file_size(student, tensors):
    return len(compress_module(student, tensors, float_dtype="bfloat16").to_bytes())


def weights_of(model):
    return {name for name, weight in model.named_parameters() if weight.ndim > 1}


def relative_error(found, before):
    with torch.no_grad():
        return float((found - before).square().mean() / before.var())


def small_network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 36, 10),
    )
    reestimate_batch_norms_(model, [random(64, 3, 8, 8)])
    return model.eval()


@pytest.mark.parametrize("gptq", [True, False])
@pytest.mark.parametrize("measured", [True, False])
def test_quantize_post_training_trades_error_for_bytes(gptq, measured):
    model = small_network()
    model[4].weight.data[random(10, 288, seed=4) > 0] = 0
    zeros = model[4].weight.detach() == 0
    before = copy.deepcopy(model.state_dict())
    inputs = random(128, 3, 8, 8, seed=1).split(64)
    plain = model(inputs[0]).detach()
    sizes, errors = [], []
    for loss_per_bit in (1e-8, 1e-4):
        student, tensors = quantize(
            model, inputs, loss_per_bit, gptq=gptq, measured=measured, examples=96
        )
        for name, tensor in tensors.items():
            assert torch.equal(tensor.dequantize(), student.get_parameter(name))
        assert tensors.keys() == weights_of(model)
        assert not student[4].weight[zeros].any()
        assert not any(module.training for module in student.modules())
        sizes.append(file_size(student, tensors))
        errors.append(relative_error(student(inputs[0]), plain))
    assert sizes[0] > 1.5 * sizes[1]
    assert errors[0] < errors[1]
    assert errors[0] < 0.05
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_quantize_post_training_keeps_modes_and_requires_grad():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    model(3 + random(64, 6))
    model[3].requires_grad_(False)
    inputs = [3 + random(64, 6, seed=1)]
    twin = copy.deepcopy(model).eval()
    before = copy.deepcopy(model.state_dict())
    student, found = quantize(model.train(), inputs, 1e-3)
    _, expected = quantize(twin, inputs, 1e-3)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert [p.requires_grad for p in student.parameters()] == [
        p.requires_grad for p in model.parameters()
    ]
    for name, tensor in expected.items():
        assert torch.equal(found[name].dequantize(), tensor.dequantize())


def test_quantize_post_training_selects_by_include_and_exclude():
    model, inputs = small_network(), [random(64, 3, 8, 8, seed=1)]
    assert [*quantize(model, inputs, include=["4.*"])[1]] == ["4.weight"]
    student, tensors = quantize(model, inputs, exclude=["4.*"])
    assert [*tensors] == ["0.weight"]
    assert torch.equal(student[4].weight, model[4].weight)
    with pytest.raises(ModelError, match=r"pattern 'nothing\.\*' matches no parameter"):
        quantize(model, inputs, include=["nothing.*"])


def test_quantize_post_training_quantizes_a_shared_weight_once():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    student, tensors = quantize(model, [random(32, 4)], 1e-3)
    assert [*tensors] == ["0.weight"]
    assert torch.equal(tensors["0.weight"].dequantize(), student[2].weight)


def test_quantize_post_training_refuses_models_of_other_stages():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    masked = copy.deepcopy(model)
    attach_(masked, {"0.weight": MaskedWeight(random(4, 4) > 0)})
    with pytest.raises(ModelError, match=r"'0\.weight' has a MaskedWeight attached"):
        quantize(masked, [random(8, 4)])
    with pytest.raises(ModelError, match="'0' computes in 8-bit integers"):
        quantize(prepare_int8(model, [random(8, 4)]), [random(8, 4)])


class Roots(nn.Linear):
    """Gives NaN for half of its inputs."""

    def forward(self, inputs):
        return super().forward(inputs).sqrt()


def test_quantize_post_training_refuses_outputs_that_are_not_finite():
    with pytest.raises(ModelError, match=r"sensitivity of '0\.weight' is nan"):
        quantize(nn.Sequential(Roots(4, 3)), [random(8, 4)])

    class Masked(nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs) + torch.tensor([0.0, 0.0, -math.inf])

    model = Masked(4, 3)
    with pytest.raises(ModelError, match=r"'weight' alone quantized .*; .* finite outputs"):
        quantize(model, [random(32, 4)], 1e-5)
    with pytest.warns(UserWarning, match="its loss cannot be measured; let the model give finite"):
        quantize(model, [random(32, 4)], 1e-5, measured=False)


class Residual(nn.Module):
    """Two convolutions beside a shortcut, then a linear layer."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.second = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.last = nn.Linear(48, 4)

    def forward(self, inputs):
        return self.last((inputs + self.second(self.first(inputs).relu())).flatten(1))


@pytest.mark.parametrize("residual", [True, False])
def test_quantize_post_training_takes_layers_whose_inputs_are_zero(residual):
    torch.manual_seed(0)
    if residual:
        model, dead = Residual(), "first.weight"
    else:
        model = nn.Sequential(nn.Flatten(), nn.Linear(48, 6), nn.ReLU(), nn.Linear(6, 4))
        model[1].bias.data.zero_()
        dead = "1.weight"
    model.get_parameter(dead).data.zero_()
    inputs = random(64, 3, 4, 4).split(32)
    before = model(inputs[0]).detach()
    student, tensors = quantize(model, inputs, 1e-7)
    assert not tensors[dead].dequantize().any()
    torch.testing.assert_close(student(inputs[0]).detach(), before, rtol=0, atol=0.1)


def separable(channels, to, stride=1):
    return [
        nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU6(),
        nn.Conv2d(channels, to, 1, bias=False),
        nn.BatchNorm2d(to),
        nn.ReLU6(),
    ]


def mobile_network():
    """Depthwise and pointwise convolutions in turn, after Howard et al. 2017, "MobileNets"."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU6(),
        *separable(8, 16),
        *separable(16, 32, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )
    reestimate_batch_norms_(model, [random(64, 3, 16, 16, seed=9)])
    return model.eval()


def test_quantize_post_training_takes_depthwise_convolutions():
    model = mobile_network()
    student, tensors = quantize(model, random(128, 3, 16, 16, seed=1).split(64), 1e-8)
    assert tensors.keys() == weights_of(model)
    images = random(32, 3, 16, 16, seed=2)
    assert relative_error(student(images), model(images)) < 0.02
    stored = CompressedModel.from_bytes(compress_module(student, tensors).to_bytes())
    twin = mobile_network()
    twin.load_state_dict(stored.state_dict())
    assert torch.equal(twin.eval()(images), student(images))


@pytest.fixture(scope="module")
def trained_mobile_network():
    """Depthwise-separable convolutions that tell noisy patterns apart, and inputs."""
    torch.manual_seed(0)
    patterns = random(12, 3, 16, 16, seed=5)

    def inputs(number, seed):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(0, 12, (number,), generator=generator)
        return patterns[labels] + 0.7 * torch.randn(number, 3, 16, 16, generator=generator), labels

    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        *separable(8, 32),
        *separable(32, 48, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(48, 12),
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    images, labels = inputs(960, 1)
    for _ in range(2):
        for batch, targets in zip(images.split(32), labels.split(32), strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(batch), targets).backward()
            optimizer.step()
    return model.eval(), inputs(256, 2)[0].split(64)


def test_quantize_post_training_size_falls_with_loss_per_bit(trained_mobile_network):
    model, inputs = trained_mobile_network
    losses = (1e-20, 1e-8, 1e-6, 1e-5, 1e-4)
    sizes = [file_size(*quantize(model, inputs, loss, examples=64)) for loss in losses]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[1] > 3 * sizes[-1]


def test_layer_rounding_widens_steps_to_the_levels_of_a_file():
    weight = torch.cat([random(40, 40), torch.full((1, 40), 1e4)])
    layer = nn.Linear(40, 41)
    layer.weight.data.copy_(weight)
    rounding = layer_rounding.LayerRounding(
        layer, {"weight": layer.weight}, [random(64, 40)], second_order=True
    )
    tensors, _ = rounding.round({"weight": 1.0}, 1e-30)
    tensor = tensors["weight"]
    assert len(tensor.levels) <= 65_535
    assert float((tensor.dequantize() - weight).abs().max()) < 2e4 / 32_767


@pytest.mark.parametrize("second_order", [True, False])
def test_layer_rounding_rounds_wide_layers_alone(monkeypatch, caplog, second_order):
    monkeypatch.setattr(layer_rounding, "MOST_INPUTS", 20)
    model = nn.Sequential(nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 3))
    with caplog.at_level(logging.WARNING):
        quantize(model, [random(64, 24)], gptq=second_order)
    expected = "tensor '0.weight' has 24 inputs, more than the 20 of second-order rounding"
    assert (expected in caplog.text) == second_order
    assert "'2.weight'" not in caplog.text


def test_layer_rounding_is_the_same_in_groups_of_layers(monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 3))
    found = []
    for size in (1 << 30, 1):
        monkeypatch.setattr(layer_rounding, "_CURVATURE_BYTES", size)
        found.append(quantize(model, [random(64, 24)], 1e-5)[0].state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_quantize_post_training_tells_its_progress():
    seen = []
    config = PostTrainingConfig(loss_per_bit=1e-5)
    model, inputs = small_network(), [random(64, 3, 8, 8, seed=1)]
    quantize_post_training(model, inputs, config, progress=lambda *told: seen.append(told))
    rounding = [("round weights (GPTQ)", done, 2) for done in range(3)]
    measuring = [("measure the sensitivity of layers", done, 2) for done in range(3)]
    assert seen == [measuring[0], *rounding, *measuring, *rounding]


class Attentive(nn.Module):
    """Words to a class, with weights that no hook sees the inputs of."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(20, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.up = nn.ConvTranspose1d(8, 8, 2, stride=2)
        self.line = nn.Conv1d(8, 6, 3)
        self.mixing = nn.Parameter(random(6, 6, seed=4))
        self.head = nn.Linear(6, 3)
        self.auxiliary = nn.Linear(6, 3)

    def forward(self, words):
        found = self.words(words)
        found, _ = self.attention(found, found, found)
        found = self.line(self.up(found.transpose(1, 2)).relu()).mean(2) @ self.mixing
        return self.head(input=found)


def test_quantize_post_training_takes_embeddings_attention_and_transposed_convolutions():
    torch.manual_seed(0)
    model = Attentive().eval()
    before = copy.deepcopy(model.state_dict())
    words = torch.randint(20, (96, 7), generator=torch.Generator().manual_seed(0))
    student, tensors = quantize(model, [words], 1e-9)
    assert tensors.keys() == weights_of(model) - {"auxiliary.weight"}
    assert torch.equal(student.auxiliary.weight, before["auxiliary.weight"])
    assert relative_error(student(words), model(words)) < 0.01
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Recurrent(nn.Module):
    """Predicts the next number of a series, and gives its state too."""

    def __init__(self):
        super().__init__()
        self.recurrent = nn.LSTM(3, 16, batch_first=True)
        self.last = nn.Linear(16, 1)

    def forward(self, series):
        outputs, state = self.recurrent(series)
        return self.last(outputs[:, -1]), state


def test_quantize_post_training_takes_recurrent_regression_in_tuples():
    torch.manual_seed(0)
    model, series = Recurrent(), random(80, 12, 3)
    batches = [(part, part.sum((1, 2))[:, None]) for part in series.split(40)]
    student, tensors = quantize(model, batches, 1e-8)
    assert tensors.keys() == weights_of(model)
    assert relative_error(student(series)[0], model(series)[0]) < 0.02


class Segmenting(nn.Module):
    """Gives a class for each pixel, by a transposed convolution."""

    def __init__(self):
        super().__init__()
        self.down, self.norm = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 4, 2, 2)

    def forward(self, images):
        return self.up(self.norm(self.down(images)).relu())


@pytest.mark.parametrize("targets", [True, False])
def test_quantize_post_training_takes_segmentation(targets):
    torch.manual_seed(0)
    model, images = Segmenting(), random(40, 3, 8, 8)
    model(images)
    data = [(images, torch.zeros(40, 8, 8).long())] if targets else [images]
    student, tensors = quantize(model, data, 1e-8)
    assert tensors.keys() == {"down.weight", "up.weight"}
    assert relative_error(student(images), model.eval()(images)) < 0.02


@dataclass
class Answer:
    """As Hugging Face models answer."""

    logits: Tensor
    loss: Tensor | None = None


class Transformer(nn.Module):
    """Classifies sequences of words, without those that a mask leaves out."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(30, 16)
        self.mixing = nn.Linear(16, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, input_ids, attention_mask, labels=None):
        hidden = self.mixing(self.words(input_ids)).relu() * attention_mask[..., None]
        pooled = hidden.sum(1) / attention_mask.sum(1, keepdim=True)
        logits = self.head(pooled)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return Answer(logits, loss)


def sentences(number, length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(30, (number, length), generator=generator)
    lengths = torch.randint(2, length + 1, (number, 1), generator=generator)
    return {"input_ids": ids, "attention_mask": (torch.arange(length) < lengths).long()}


@pytest.mark.parametrize("lengths", [(9, 9), (9, 6)])
@pytest.mark.parametrize("labels", [True, False])
def test_quantize_post_training_takes_mappings_with_masks(lengths, labels):
    torch.manual_seed(0)
    model = Transformer()
    batches = [sentences(40, length, seed) for seed, length in enumerate(lengths)]
    if labels:
        batches = [batch | {"labels": torch.zeros(40).long()} for batch in batches]
    student, tensors = quantize(model, batches, 1e-8)
    assert tensors.keys() == weights_of(model)
    before, found = (network(**batches[0]).logits for network in (model, student))
    assert relative_error(found, before) < 0.02


def test_quantize_post_training_takes_several_inputs():
    torch.manual_seed(0)

    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 3), nn.Linear(5, 3)

        def forward(self, a, b):
            return self.first(a) + self.second(b)

    model, inputs = Sum(), (random(40, 4), random(40, 5, seed=1))
    student, tensors = quantize(model, [(inputs, torch.zeros(40).long())], 1e-8)
    assert tensors.keys() == {"first.weight", "second.weight"}
    assert relative_error(student(*inputs), model(*inputs)) < 0.02


class Experts(nn.Module):
    """Each example goes to one of two experts, by the sign of its first number."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(4, 3) for _ in range(2))

    def forward(self, inputs):
        first = (inputs[:, :1] > 0).squeeze(1)
        found = inputs.new_zeros(len(inputs), 3)
        for expert, taken in zip(self.experts, (first, ~first), strict=True):
            if bool(taken.any()):
                found[taken] = expert(inputs[taken])
        return found


def test_quantize_post_training_quantizes_experts_that_an_example_reaches():
    torch.manual_seed(0)
    model, inputs = Experts(), random(40, 4)
    assert quantize(model, [inputs])[1].keys() == {"experts.0.weight", "experts.1.weight"}
    inputs[:, 0] = inputs[:, 0].abs()
    assert quantize(model, [inputs])[1].keys() == {"experts.0.weight"}
    with pytest.raises(ModelError, match="depend on none of the selected weights"):
        quantize(model, [inputs], include=["experts.1.weight"])


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_quantize_post_training_takes_frozen_models_and_empty_layers():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    inputs = [random(40, 8)]
    expected = quantize(model, inputs)[0].state_dict()
    model.requires_grad_(False)
    model.register_parameter("table", nn.Parameter(torch.ones(2, 2).long(), requires_grad=False))
    found = quantize(model, inputs)[0].state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert found["table"].dtype == torch.int64
    assert not any(parameter.requires_grad for parameter in model.parameters())

    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.nothing, self.last = nn.Linear(8, 0), nn.Linear(8, 3)

        def forward(self, inputs):
            return self.last(inputs) + self.nothing(inputs).sum(1, keepdim=True)

    assert quantize(Beside(), inputs)[1].keys() == {"last.weight"}


def sizes_seen(model, inputs, **settings):
    """Sizes of the batches that only sensitivities are measured on."""
    seen = set()

    class Watching(nn.Module):
        def forward(self, inputs):
            seen.add(len(inputs))
            return inputs

    quantize(nn.Sequential(Watching(), *model), inputs, **settings)
    return seen - {1, *map(len, inputs)}


@pytest.mark.parametrize(
    ("examples", "parts"), [(65, {32, 33}), (130, {43, 44}), (256, {64}), (200, {50})]
)
def test_quantize_post_training_parts_examples_evenly(examples, parts):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
    model(random(200, 6))
    inputs = [random(150, 6, seed=1), random(150, 6, seed=2)]
    assert sizes_seen(model, inputs, examples=examples) == parts


def test_quantize_post_training_needs_two_examples_for_batch_norm():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
    model(random(200, 6))
    for inputs, examples in (
        ([random(1, 6)], 256),
        ([random(40, 6), random(1, 6)], 256),
        ([random(40, 6)], 1),
    ):
        with pytest.raises(DataError, match=r"one example .* no variance; give .* of two or more"):
            quantize(model, inputs, examples=examples)
    images = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))
    images(random(8, 3, 8, 8))
    quantize(images, [random(1, 3, 8, 8)])  # has many values a channel


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "data is empty"),
        (random(8, 4), "data is a Tensor; give a list of batches"),
        ([random(8, 4), random(0, 4)], "a batch without examples"),
        ([torch.tensor(1.0)], "a batch without examples"),
        ([torch.full((8, 4), math.inf)], "holds NaN or infinity"),
        (["text"], "batches of type str"),
    ],
)
def test_quantize_post_training_refuses_data_without_examples(data, message):
    with pytest.raises(DataError, match=message):
        quantize(nn.Sequential(nn.Linear(4, 3)), data)


def test_quantize_post_training_refuses_outputs_without_gradients():
    class Detached(nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs).detach()

    with pytest.raises(ModelError, match="outputs of the model depend on none of its weights"):
        quantize(Detached(4, 3), [random(8, 4)])


def test_quantize_post_training_takes_data_that_is_iterated_once():
    torch.manual_seed(0)
    model, batches = nn.Sequential(nn.Linear(4, 3)), [random(8, 4), random(8, 4, seed=1)]
    found = quantize(model, iter(batches))[0].state_dict()
    expected = quantize(model, batches)[0].state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_quantize_post_training_corrects_statistics_and_biases():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 36, 10),
    )
    reestimate_batch_norms_(model.eval(), [random(64, 3, 8, 8)])
    nn.init.uniform_(model[1].weight, 0.5, 1.5)
    batches = random(128, 3, 8, 8, seed=1).split(64)
    student, _ = quantize(model, batches, 1e-4)
    quantized = copy.deepcopy(model)
    for index in (0, 4):
        quantized[index].weight.data.copy_(student[index].weight)

    def statistics(network):
        with torch.no_grad():
            outputs = [network[0](batch) for batch in batches]
        means = torch.stack([output.mean((0, 2, 3)) for output in outputs]).mean(0)
        return means, torch.stack([output.var((0, 2, 3)) for output in outputs]).mean(0)

    (mean, variance), (new_mean, new_variance) = statistics(model), statistics(quantized)
    norm = model[1]
    shifted = norm.running_mean + new_mean - mean
    spread = (norm.running_var + norm.eps) * (new_variance + norm.eps) / (variance + norm.eps)
    torch.testing.assert_close(student[1].running_mean, shifted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(student[1].running_var, spread - norm.eps, rtol=1e-4, atol=1e-5)
    assert float((student[1].running_var - norm.running_var).abs().max()) > 1e-3

    def mean_output(network):
        with torch.no_grad():
            return torch.cat([network(batch) for batch in batches]).mean(0)

    torch.testing.assert_close(mean_output(student), mean_output(model), rtol=0, atol=1e-5)
    student[4].bias.data.copy_(model[4].bias)
    assert float((mean_output(student) - mean_output(model)).abs().max()) > 1e-3


def test_quantize_post_training_takes_as_many_examples_as_it_is_given():
    class Counting(list):
        taken = 0

        def __iter__(self):
            for batch in super().__iter__():
                self.taken += 1
                yield batch

    data = Counting([torch.randn(16, 8) for _ in range(20)])
    config = PostTrainingConfig(examples=16, calibration_examples=32)
    quantize_post_training(nn.Sequential(nn.Linear(8, 4)), data, config)
    assert data.taken <= 3  # a look at the first, then two


def test_quantize_post_training_keeps_the_answers_of_a_model_without_doubts():
    torch.manual_seed(0)
    inputs = torch.randn(512, 16)
    targets = (inputs[:, :2].prod(1) > 0).long()
    model = nn.Sequential(
        nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)
    )
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(400):  # far beyond what the data ask for
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    assert (model(inputs).argmax(1) == targets).all()
    student, tensors = quantize_post_training(model, list(inputs.split(128)))
    before, after = model(inputs).log_softmax(1), student(inputs).log_softmax(1)
    divergence = torch.nn.functional.kl_div(after, before, log_target=True, reduction="batchmean")
    assert divergence.item() < 5e-3
    assert (student(inputs).argmax(1) == targets).float().mean() > 0.995
    assert sum(int((tensor.symbols != 0).sum()) for tensor in tensors.values()) > 1000
