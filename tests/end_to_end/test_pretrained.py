"""The pretrained network is as accurate as its card says."""

import pytest

from flyweight.cifar import Split, accuracy, load_pretrained, pretrained_card


def test_load_pretrained_is_right_on_most_of_a_thousand_test_images(cifar10):
    first = Split(cifar10.test.images[:1000], cifar10.test.labels[:1000])
    expected = pretrained_card("resnet20")["test_accuracy"]
    # Four standard deviations of a thousand draws.
    assert accuracy(load_pretrained("resnet20"), first) == pytest.approx(expected, abs=0.036)


def test_pretrained_card_says_how_the_network_was_made():
    card = pretrained_card("resnet20")
    assert card["parameters"] == 269_722
    assert "recipe" in card or "training" in card
    for key in ("seed", "epochs", "device", "commit", "validation_accuracy"):
        assert card[key] is not None, key
    assert not card["commit"].endswith("-dirty")


@pytest.mark.slow
def test_load_pretrained_has_the_accuracy_of_its_card(cifar10):
    expected = pretrained_card("resnet20")["test_accuracy"]
    # Another processor may round some logits the other way.
    assert accuracy(load_pretrained("resnet20"), cifar10.test) == pytest.approx(expected, abs=5e-4)
