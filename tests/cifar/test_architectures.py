"""Parameter counts and shapes of the networks, and the registry."""

import pytest
import torch

from flyweight.errors import ModelError
from flyweight.cifar import (
    CifarResNet,
    architectures,
    create_model,
    load_pretrained,
)

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
def test_parameter_counts(name, count):
    assert parameters(create_model(name)) == count


def test_inner_convolutions_of_resnet20_hold_267264_weights():
    model = create_model("resnet20")
    inner = [p for n, p in model.stages.named_parameters() if p.ndim == 4]
    assert len(inner) == 18
    assert sum(p.numel() for p in inner) == 267_264


def test_a_32_channel_stem_with_shortcut_b_has_a_third_1x1_convolution():
    model = create_model("resnet20-b-stem32")
    points = [m for m in model.modules() if getattr(m, "kernel_size", None) == (1, 1)]
    assert [(m.in_channels, m.out_channels) for m in points] == [(32, 16), (16, 32), (32, 64)]


@pytest.mark.parametrize("name", [n for n in architectures() if n.startswith("resnet20")])
def test_every_variant_maps_images_to_ten_logits(name):
    model = create_model(name).eval()
    logits = model(torch.zeros(2, 3, 32, 32))
    assert logits.shape == (2, 10)
    assert torch.isfinite(logits).all()


def test_the_registry_holds_all_depths_shortcuts_and_stems():
    assert len(architectures()) == 5 * 2 * 2


def test_weights_follow_the_seed_and_leave_the_global_state_alone():
    before = torch.random.get_rng_state()
    first, again, other = create_model("resnet20"), create_model("resnet20"), None
    other = create_model("resnet20", seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(first.conv1.weight, again.conv1.weight)
    assert not torch.equal(first.conv1.weight, other.conv1.weight)


def test_shortcut_a_takes_every_second_pixel_and_pads_channels():
    block = create_model("resnet20").stages[1][0]
    x = torch.randn(1, 16, 8, 8)
    y = block.shortcut(x)
    assert y.shape == (1, 32, 4, 4)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any()
    assert not y[:, 24:].any()


@pytest.mark.parametrize("depth", [0, 2, 7, 21])
def test_an_impossible_depth_is_refused(depth):
    with pytest.raises(ModelError, match="6n\\+2"):
        CifarResNet(depth)


def test_unknown_names_are_refused_in_words():
    with pytest.raises(ModelError, match=r"'resnet21' is unknown.*resnet20"):
        create_model("resnet21")
    with pytest.raises(ModelError, match=r"no pretrained weights.*flyweight train resnet110"):
        load_pretrained("resnet110")
    with pytest.raises(ModelError, match="choose 'A' or 'B'"):
        CifarResNet(20, shortcut="C")  # type: ignore[arg-type]
