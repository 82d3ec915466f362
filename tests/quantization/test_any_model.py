"""Without training, any classifier: other layers, other sizes of batches, and what is refused."""

import copy
import math

import pytest
import torch
from torch import nn

from flyweight import compress_post_training, load, save
from flyweight.batch_norm import reestimate_batch_norms_
from flyweight.compressed import CompressedTensor
from flyweight.errors import DataError, ModelError, RecipeError
from flyweight.quantization import code_bits, input_correlations, gptq
from flyweight.quantization import correct_biases_, quantize_post_training_


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


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


def coded(compressed):
    return {name for name, t in compressed.tensors.items() if isinstance(t, CompressedTensor)}


def weights_of(model):
    return {name for name, weight in model.named_parameters() if weight.ndim > 1}


def test_a_mobile_network_is_quantised_whole_and_its_file_answers_the_same(tmp_path):
    model = mobile_network()
    inputs = random(128, 3, 16, 16, seed=1).split(64)
    compressed = compress_post_training(model, inputs, price=1e-6)
    assert coded(compressed) == weights_of(model)
    student = mobile_network()
    student.load_state_dict(compressed.state_dict())
    save(compressed, tmp_path / "mobile.fly")
    stored = load(tmp_path / "mobile.fly", architecture=mobile_network)
    images = random(32, 3, 16, 16, seed=2)
    with torch.no_grad():
        wanted, found, read = (some.eval()(images) for some in (model, student, stored))
    assert torch.equal(read, found)
    assert float((found - wanted).square().mean()) < 0.02 * float(wanted.var())


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_convolutions_in_groups_are_rounded_as_each_group_would_be_alone(memory_format):
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 9, 3, stride=2, padding=1, groups=3).to(memory_format=memory_format)
    inputs = random(24, 6, 9, 9).cumsum(1)
    correlations = input_correlations(nn.Sequential(layer), ["0.weight"], inputs.split(8))
    found = correlations["0.weight"]
    assert found.shape == (3, 18, 18)
    step, bits = 0.05, code_bits(torch.round(layer.weight.detach() / 0.05), 8)
    settings = {"step": step, "bits": bits, "price": 1e-3, "damping": 0.0, "sweeps": 2}
    together = gptq(layer.weight, found, **settings).dequantize()
    for group in range(3):
        alone = nn.Conv2d(2, 3, 3, stride=2, padding=1)
        weight = layer.weight[3 * group : 3 * group + 3]
        images = inputs[:, 2 * group : 2 * group + 2]
        expected = input_correlations(nn.Sequential(alone), ["0.weight"], [images])["0.weight"]
        torch.testing.assert_close(found[group], expected, rtol=1e-4, atol=1e-4)
        rounded = gptq(weight, found[group], **settings).dequantize()
        assert torch.equal(together[3 * group : 3 * group + 3], rounded)


@pytest.mark.parametrize("groups", [3, 6])
def test_second_order_rounding_in_groups_changes_the_output_less(groups):
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 12, 3, padding=1, groups=groups, bias=False)
    inputs = nn.functional.avg_pool2d(random(32, 6, 11, 11), 3, 1)  # neighbours are alike
    correlation = input_correlations(nn.Sequential(layer), ["0.weight"], [inputs])["0.weight"]
    weight, step = layer.weight.detach().clone(), 0.1
    second = gptq(weight, correlation, step=step).dequantize()

    def error(other):
        with torch.no_grad():
            layer.weight.copy_(weight - other)
            return float(layer(inputs).square().mean())

    assert error(second) < 0.8 * error(torch.round(weight / step) * step)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(4, 6, 3, stride=2, padding=1),
        nn.Conv1d(4, 6, 4, dilation=2, padding="same", groups=2),
        nn.Conv1d(4, 6, 3, padding=2, padding_mode="circular"),
        nn.Conv2d(4, 6, (4, 3), dilation=2, padding="same", groups=2),
        nn.Conv2d(4, 4, 3, padding=(1, 2), padding_mode="reflect", groups=4),
    ],
)
def test_correlations_in_groups_and_along_a_line_are_of_what_the_weight_multiplies(layer):
    spatial = len(layer.kernel_size)
    inputs = random(8, 4, *[9] * spatial)
    found = input_correlations(nn.Sequential(layer), ["0.weight"], inputs.split(4))["0.weight"]
    change = random(*layer.weight.shape, seed=3) * 0.1
    with torch.no_grad():
        plain = layer(inputs)
        layer.weight.add_(change)
        error = (layer(inputs) - plain).square()
    expected = float(error.sum() / (error.numel() / layer.out_channels))
    delta = change.flatten(1).double().view(*found.shape[:-2], -1, found.shape[-1])
    assert float(((delta @ found) * delta).sum()) == pytest.approx(expected, rel=1e-3)


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


def test_layers_whose_inputs_are_not_seen_are_rounded_and_what_no_answer_needs_stays(tmp_path):
    torch.manual_seed(0)
    model = Attentive().eval()
    before = copy.deepcopy(model.state_dict())
    words = torch.randint(20, (96, 7), generator=torch.Generator().manual_seed(0))
    names = weights_of(model)
    seen = input_correlations(model, sorted(names), [words])
    assert seen.keys() == {"line.weight", "head.weight"}
    compressed = compress_post_training(model, [words], price=1e-9, dense="float32")
    assert coded(compressed) == names - {"auxiliary.weight"}
    assert torch.equal(compressed.state_dict()["auxiliary.weight"], before["auxiliary.weight"])
    save(compressed, tmp_path / "words.fly")
    stored = load(tmp_path / "words.fly", architecture=Attentive)
    with torch.no_grad():
        wanted, found = model(words), stored(words)
    assert float((found - wanted).square().mean()) < 0.01 * float(wanted.var())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


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


def test_experts_are_quantised_where_any_example_reaches_them():
    torch.manual_seed(0)
    model, inputs = Experts(), random(40, 4)
    both = compress_post_training(model, [inputs], price=1e-6)
    assert coded(both) == {"experts.0.weight", "experts.1.weight"}
    inputs[:, 0] = inputs[:, 0].abs()
    one = compress_post_training(model, [inputs], price=1e-6)
    assert coded(one) == {"experts.0.weight"}
    with pytest.raises(ModelError, match="depend on none of the weights named"):
        quantize_post_training_(model, ["experts.1.weight"], [inputs], price=1e-6)


def test_what_a_layer_of_its_own_kind_or_several_layers_multiply_is_not_guessed():
    class Turned(nn.Linear):
        def forward(self, inputs):
            return inputs @ self.weight

    class Adapted(nn.Linear):
        def __init__(self):
            super().__init__(4, 4)
            self.low = nn.Parameter(torch.ones(4, 4))

    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), Turned(4, 4), Adapted())
    tied[1].weight = tied[0].weight
    names = ["0.weight", "2.weight", "3.weight", "3.low"]
    assert input_correlations(tied, names, [random(8, 4)]).keys() == {"3.weight"}
    twice = nn.Sequential(layer := nn.Linear(4, 4), layer)
    assert input_correlations(twice, ["0.weight"], [random(8, 4)]).keys() == {"0.weight"}


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_model_that_is_frozen_or_has_a_layer_without_weights_is_quantised():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    inputs = [random(40, 8)]
    wanted = compress_post_training(model, inputs, price=1e-6).state_dict()
    model.requires_grad_(False)
    model.register_parameter("table", nn.Parameter(torch.ones(2, 2).long(), requires_grad=False))
    found = compress_post_training(model, inputs, price=1e-6)
    assert all(torch.equal(found.state_dict()[name], wanted[name]) for name in wanted)
    assert found.state_dict()["table"].dtype == torch.int64
    assert not any(parameter.requires_grad for parameter in model.parameters())

    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.nothing, self.last = nn.Linear(8, 0), nn.Linear(8, 3)

        def forward(self, inputs):
            return self.last(inputs) + self.nothing(inputs).sum(1, keepdim=True)

    assert coded(compress_post_training(Beside(), inputs, price=1e-6)) == {"last.weight"}


def sizes_seen(model, inputs, **settings):
    """Sizes of batches by which layers were measured alone."""
    seen = set()
    handle = model[0].register_forward_hook(lambda layer, given, _: seen.add(len(given[0])))
    compress_post_training(model, inputs, price=1e-6, **settings)
    handle.remove()
    return seen - {1, *map(len, inputs)}


@pytest.mark.parametrize(
    ("examples", "parts"), [(65, {32, 33}), (130, {43, 44}), (256, {64}), (200, {50})]
)
def test_examples_are_parted_evenly(examples, parts):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
    model(random(200, 6))
    inputs = [random(150, 6, seed=1), random(150, 6, seed=2)]
    assert sizes_seen(model, inputs, examples=examples) == parts


def test_one_example_has_no_variance():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
    model(random(200, 6))
    for inputs, examples in (
        ([random(1, 6)], 256),
        ([random(40, 6), random(1, 6)], 256),
        ([random(40, 6)], 1),
    ):
        with pytest.raises(DataError, match=r"one example .* no variance; give .* of two or more"):
            compress_post_training(model, inputs, price=1e-6, examples=examples)
    images = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))
    images(random(8, 3, 8, 8))
    compress_post_training(images, [random(1, 3, 8, 8)], price=1e-6)  # has many values a channel


class Counted(nn.Module):
    """Gives what it is told to make of the outputs, and counts its runs."""

    def __init__(self, make=lambda outputs: outputs):
        super().__init__()
        self.layer, self.make, self.runs = nn.Linear(4, 3), make, [0]

    def __deepcopy__(self, memo):
        other = Counted(self.make)
        other.load_state_dict(self.state_dict())
        other.runs = self.runs
        return other

    def forward(self, inputs):
        self.runs[0] += 1
        return self.make(self.layer(inputs))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"dense": "fp16"}, RecipeError, "dense is 'bfloat16', 'float16' or 'float32'; found 'fp1"),
        ({"price": -1}, ModelError, "the price of a bit is finite and above 0; found -1"),
        ({"price": math.nan}, ModelError, "the price of a bit is finite and above 0; found nan"),
        ({"examples": 0}, ModelError, "by at least 1 example; found 0"),
        ({"layers": ["other"]}, ModelError, "pattern 'other' matches no parameter"),
        ({"inputs": random(8, 4)}, DataError, "are one tensor; give a list of batches"),
        ({"inputs": [(random(8, 4), torch.zeros(8))]}, DataError, "batch 0 is a tuple, not a tens"),
        ({"inputs": [random(8, 4), random(0, 4)]}, DataError, "batch 1 holds no example"),
        ({"inputs": [torch.tensor(1.0)]}, DataError, r"batch 0 holds no example; found shape \(\)"),
        ({"inputs": [torch.full((8, 4), math.inf)]}, DataError, "batch 0 holds NaN or infinity"),
        (
            {"inputs": [random(8, 4), random(8, 5)]},
            DataError,
            r"batch 1 holds examples of shape \(5,\), and the first of \(4,\)",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_the_network_runs(settings, error, message):
    model = Counted()
    given = {"inputs": [random(8, 4)], "price": 1e-6, **settings}
    with pytest.raises(error, match=message):
        compress_post_training(model, given.pop("inputs"), **given)
    assert model.runs == [0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda outputs: (outputs, outputs), "gives a tuple, not a tensor of logits; wrap it"),
        (lambda outputs: {"logits": outputs}, "gives a dict, not a tensor of logits; wrap it"),
        (lambda outputs: outputs[:, 0], r"gives shape \(8,\) for 8 examples, .* logits N×K of two"),
        (lambda outputs: outputs[:, :1], r"gives shape \(8, 1\) for 8 examples, .* two classes"),
        (lambda outputs: outputs[:, :0], r"gives shape \(8, 0\) for 8 examples"),
        (lambda outputs: outputs[:, None].expand(-1, 5, -1), r"gives shape \(8, 5, 3\) for 8"),
        (lambda outputs: outputs[:2], r"gives shape \(2, 3\) for 8 examples"),
        (lambda outputs: outputs.detach(), "the loss has no gradient by these weights"),
    ],
)
def test_answers_that_are_no_logits_are_refused(make, message):
    with pytest.raises(ModelError, match=message):
        compress_post_training(Counted(make), [random(8, 4)], price=1e-6)


def test_a_price_too_small_for_a_tensor_names_both():
    model = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(
        ModelError, match=r"price of 1e-20 tensor '0\.weight' needs .* levels, .* a larger price"
    ):
        compress_post_training(model, [random(8, 4)], price=1e-20)


def test_batches_may_come_from_anything_that_gives_them_once():
    torch.manual_seed(0)
    model, batches = nn.Sequential(nn.Linear(4, 3)), [random(8, 4), random(8, 4, seed=1)]
    found = compress_post_training(model, iter(batches), price=1e-6).state_dict()
    wanted = compress_post_training(model, batches, price=1e-6).state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_statistics_and_biases_of_the_file_are_what_the_corrections_give():
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
    compressed = compress_post_training(model, batches, price=1e-4, dense="float32")
    stored = compressed.state_dict()
    quantised = copy.deepcopy(model)
    for index in (0, 4):
        quantised[index].weight.data.copy_(stored[f"{index}.weight"])

    def statistics(network):
        with torch.no_grad():
            outputs = [network[0](batch) for batch in batches]
        means = torch.stack([output.mean((0, 2, 3)) for output in outputs]).mean(0)
        return means, torch.stack([output.var((0, 2, 3)) for output in outputs]).mean(0)

    (mean, variance), (new_mean, new_variance) = statistics(model), statistics(quantised)
    norm = model[1]
    shifted = norm.running_mean + new_mean - mean
    spread = (norm.running_var + norm.eps) * (new_variance + norm.eps) / (variance + norm.eps)
    scale = (norm.weight / spread.sqrt()).detach()
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(stored["1.weight"], scale, **close)
    torch.testing.assert_close(stored["1.bias"], (norm.bias - shifted * scale).detach(), **close)
    before = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
    assert float((scale - before).abs().max()) > 1e-3  # the correction is no matter of rounding

    def means(biases):
        network = copy.deepcopy(model)
        network.load_state_dict({**stored, "4.bias": biases})
        with torch.no_grad():
            return torch.cat([network(batch) for batch in batches]).mean(0)

    with torch.no_grad():
        wanted = torch.cat([model(batch) for batch in batches]).mean(0)
    torch.testing.assert_close(means(stored["4.bias"]), wanted, rtol=0, atol=1e-5)
    assert float((means(model[4].bias.detach()) - wanted).abs().max()) > 1e-3


def test_biases_of_layers_on_one_vector_and_of_those_that_nothing_reaches():
    class Prompted(nn.Module):
        def __init__(self):
            super().__init__()
            self.prompt, self.last = nn.Linear(4, 4), nn.Linear(4, 3)
            self.experts = Experts()

        def forward(self, inputs):
            none = self.experts.experts[1](inputs[:0]).sum()
            return self.last(inputs + self.prompt(torch.ones(4))) + none

    torch.manual_seed(0)
    before, inputs = Prompted(), [random(16, 4)]
    after = copy.deepcopy(before)
    after.prompt.weight.data += 0.1
    correct_biases_(after, before, inputs)
    with torch.no_grad():
        torch.testing.assert_close(after.prompt(torch.ones(4)), before.prompt(torch.ones(4)))
    assert torch.equal(after.experts.experts[1].bias, before.experts.experts[1].bias)
