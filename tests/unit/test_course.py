"""The names of the course's notebooks."""

import pytest
import torch
from torch import nn

from labs import course


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(288, 10))


def shares(net):
    return [float((net[i].weight == 0).float().mean()) for i in (0, 3)]


def test_pruning_by_the_course_is_in_place_and_in_per_cent(capsys):
    net = network()
    assert course.prune_by_percentage(net, q=75) is net
    assert shares(net) == pytest.approx([0.75, 0.75], abs=0.005)
    net = course.prune_by_std(network(), s=0.5)
    assert 0.2 < min(shares(net)) <= max(shares(net)) < 0.5
    net = course.global_prune_by_percentage(network(), q=80)
    total = 0.8 * (216 + 2880)
    assert shares(net)[0] * 216 + shares(net)[1] * 2880 == pytest.approx(total, abs=1)
    assert shares(net)[0] < 0.5 < shares(net)[1]
    assert net[1].weight.all()
    course.summary(net)
    assert capsys.readouterr().out.splitlines()[-1].split() == [
        "total",
        "3,096",
        f"{3096 - round(total):,}",
        "0.8001",
    ]


@pytest.mark.parametrize("prune", [True, False])
def test_zeros_survive_finetuning_with_any_optimizer(prune):
    net = course.prune_by_percentage(network(), q=50)
    before = net[3].weight.detach().clone()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    loader = [(torch.randn(8, 3, 8, 8), torch.arange(8)) for _ in range(3)]
    course.finetune_after_prune(net, loader, nn.CrossEntropyLoss(), optimizer, prune=prune)
    assert (shares(net)[1] == 0.5) == prune
    assert not torch.equal(net[3].weight, before)
    assert set(net.state_dict()) == set(network().state_dict())
