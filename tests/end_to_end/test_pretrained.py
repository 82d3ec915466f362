"""The network that comes with flyweight is as good as its card says."""

import pytest

from flyweight.cifar import Split
from flyweight.cifar import load_pretrained, pretrained_card
from flyweight.training import accuracy


def test_the_shipped_network_is_right_on_most_of_a_thousand_test_images(cifar10):
    few = Split(cifar10.test.images[:1000], cifar10.test.labels[:1000])
    expected = pretrained_card("resnet20")["test_accuracy"]
    # Four standard deviations of a thousand draws.
    assert accuracy(load_pretrained("resnet20"), few) == pytest.approx(expected, abs=0.036)


def test_the_card_tells_how_the_network_was_made():
    card = pretrained_card("resnet20")
    assert card["parameters"] == 269_722
    for key in ("recipe", "seed", "epochs", "device", "commit", "validation_accuracy"):
        assert card[key] is not None, key
    assert not card["commit"].endswith("-dirty")


@pytest.mark.slow
def test_the_accuracy_of_the_card_on_all_test_images(cifar10):
    expected = pretrained_card("resnet20")["test_accuracy"]
    # Another processor may round a few logits the other way.
    assert accuracy(load_pretrained("resnet20"), cifar10.test) == pytest.approx(expected, abs=5e-4)
