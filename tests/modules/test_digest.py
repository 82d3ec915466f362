"""Digests of networks."""

import hashlib

import pytest
import torch
from torch import nn

from flyweight.modules import add_network_


def digest_of(network: nn.Module) -> str:
    digest = hashlib.sha256()
    add_network_(digest, network)
    return digest.hexdigest()


def small() -> nn.Sequential:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    nn.init.constant_(network[0].weight, 0.5)
    nn.init.constant_(network[0].bias, 0.5)
    return network


def test_add_network_hashes_names_and_bytes_in_order():
    expected = hashlib.sha256()
    for name, value in small().state_dict().items():
        expected.update(name.encode() + value.numpy().tobytes())
    assert digest_of(small()) == expected.hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        lambda network: network[0].bias.data.neg_(),
        lambda network: network[1].running_var.mul_(2),  # a buffer counts too
        lambda network: network.append(nn.Linear(1, 1)),
        lambda network: network.bfloat16(),
    ],
)
def test_add_network_differs_between_networks(change):
    network = small()
    change(network)
    assert digest_of(network) != digest_of(small())


def test_add_network_ignores_the_memory_format():
    network = small().to(memory_format=torch.channels_last)
    assert digest_of(network) == digest_of(small())


def test_add_network_leaves_out_states_that_are_no_tensors():
    class Versioned(nn.Linear):
        def get_extra_state(self):
            return {"version": 2}

        def set_extra_state(self, state):
            pass

    versioned, plain = Versioned(2, 2), nn.Linear(2, 2)
    plain.load_state_dict({"weight": versioned.weight, "bias": versioned.bias})
    assert digest_of(versioned) == digest_of(plain)
