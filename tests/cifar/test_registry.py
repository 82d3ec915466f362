"""CIFAR-10 networks: parameter counts, shapes, names and weights."""

import pytest
import torch

from flyweight.cifar import (
    CifarResNet,
    architectures,
    create_model,
    load_pretrained,
    pretrained_card,
)
from flyweight.errors import ModelError
from flyweight.modules import architectures as registered
from flyweight.modules import build

# 3·16·9 + 2·16 for the stem, blocks of two 3×3 convolutions and two batch norms, 64·10 + 10.
COUNTS = {
    "resnet20": 269_722,
    "resnet20-b": 272_474,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
}


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_create_model_has_the_known_number_of_parameters(name, count):
    assert parameters(create_model(name)) == count


def test_create_model_has_267264_weights_in_inner_convolutions():
    model = create_model("resnet20")
    inner = [p for n, p in model.stages.named_parameters() if p.ndim == 4]
    assert len(inner) == 18
    assert sum(p.numel() for p in inner) == 267_264


def test_create_model_adds_a_1x1_convolution_after_a_wide_stem():
    model = create_model("resnet20-b-stem32")
    points = [m for m in model.modules() if getattr(m, "kernel_size", None) == (1, 1)]
    assert [(m.in_channels, m.out_channels) for m in points] == [(32, 16), (16, 32), (32, 64)]


@pytest.mark.parametrize("name", [n for n in architectures() if n.startswith("resnet20")])
def test_create_model_maps_images_to_ten_logits(name):
    model = create_model(name).eval()
    logits = model(torch.zeros(2, 3, 32, 32))
    assert logits.shape == (2, 10)
    assert torch.isfinite(logits).all()


def test_architectures_has_all_depths_shortcuts_and_stems():
    assert len(architectures()) == 5 * 2 * 2
    assert set(architectures()) <= set(registered())


def test_build_makes_the_networks_by_their_names():
    for name in ("resnet20", "resnet20-b-stem32"):
        ours, theirs = build(name).state_dict(), create_model(name).state_dict()
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_create_model_draws_from_its_seed_alone():
    before = torch.random.get_rng_state()
    first, again, other = create_model("resnet20"), create_model("resnet20"), None
    other = create_model("resnet20", seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(first.conv1.weight, again.conv1.weight)
    assert not torch.equal(first.conv1.weight, other.conv1.weight)


def test_shortcut_a_subsamples_and_pads_channels():
    block = create_model("resnet20").stages[1][0]
    x = torch.randn(1, 16, 8, 8)
    y = block.shortcut(x)
    assert y.shape == (1, 32, 4, 4)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any()
    assert not y[:, 24:].any()


@pytest.mark.parametrize("depth", [0, 2, 7, 21])
def test_cifar_resnet_refuses_an_impossible_depth(depth):
    with pytest.raises(ModelError, match="6n\\+2"):
        CifarResNet(depth)


def test_create_model_refuses_unknown_names():
    with pytest.raises(ModelError, match=r"'resnet21' is not of flyweight\.cifar.*resnet20"):
        create_model("resnet21")
    with pytest.raises(ModelError, match="choose 'A' or 'B'"):
        CifarResNet(20, shortcut="C")  # type: ignore[arg-type]


def test_load_pretrained_names_the_way_to_weights_that_are_not_shipped():
    with pytest.raises(ModelError, match=r"no pretrained weights.*train_resnet\('resnet110'"):
        load_pretrained("resnet110")


def test_load_pretrained_gives_a_network_in_evaluation_mode():
    model = load_pretrained("resnet20")
    assert not any(module.training for module in model.modules())
    assert pretrained_card("resnet20")["parameters"] == parameters(model)
