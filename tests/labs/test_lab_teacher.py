"""A teacher that answers each batch once."""

import torch
from torch import nn

from labs.teacher import Remembering


class Counted(nn.Module):
    def __init__(self, seed):
        super().__init__()
        self.linear = nn.Linear(12, 3)
        nn.init.normal_(self.linear.weight, generator=torch.Generator().manual_seed(seed))
        nn.init.zeros_(self.linear.bias)
        self.calls = 0

    def forward(self, images):
        self.calls += 1
        return self.linear(images.flatten(1))


@torch.no_grad()
def test_an_answer_is_computed_once_and_comes_back_bit_for_bit(tmp_path):
    network = Counted(seed=1)
    images = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    first = Remembering(network, tmp_path / "some" / "logits.sqlite")
    expected = network(images)
    assert torch.equal(first(images), expected)
    again = Remembering(network, tmp_path / "some" / "logits.sqlite")
    last = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(again(last), expected)
    assert network.calls == 2


@torch.no_grad()
def test_other_images_and_other_networks_get_answers_of_their_own(tmp_path):
    one, two = Counted(seed=1), Counted(seed=2)
    images = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    for network in (one, two):
        teacher = Remembering(network, tmp_path / "logits.sqlite")
        for batch in (images, images.flip(0), images[:2]):
            assert torch.equal(teacher(batch), network(batch))
