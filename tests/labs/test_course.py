"""The names of the course's notebooks."""

import copy
import itertools

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
    assert list(net.state_dict()) == list(network().state_dict())
    names = [name for name, _ in network().named_parameters()]
    assert [name for name, _ in net.named_parameters()] == names


def test_a_fraction_where_per_cent_are_meant_is_told():
    for prune in (course.prune_by_percentage, course.global_prune_by_percentage):
        with pytest.warns(UserWarning, match=r"0\.75 prunes 0\.75 % .*did you mean 75\?"):
            prune(network(), q=0.75)
        for q in (0, 1, 75.5):
            prune(network(), q=q)  # a warning would be an error


def test_pruned_weights_are_zero_without_a_sign():
    for prune in (
        course.prune_by_percentage,
        course.global_prune_by_percentage,
        course.prune_by_std,
    ):
        net = prune(network())
        for i in (0, 3):
            zeros = net[i].weight[net[i].weight == 0]
            assert len(zeros)
            assert not zeros.signbit().any()


def loader(pictures=8):
    return [(torch.randn(pictures, 3, 8, 8), torch.arange(pictures)) for _ in range(3)]


def test_a_loader_without_an_optimizer_is_used_with_descent_of_the_rate_given(monkeypatch):
    monkeypatch.setattr(course, "load_cifar10", None)  # is not asked for
    net = course.prune_by_percentage(network(), q=50)
    still, moved = copy.deepcopy(net), copy.deepcopy(net)
    batches = loader()
    course.finetune_after_prune(still, batches, lr=0.0)
    assert torch.equal(still[3].weight, net[3].weight)
    optimizer = torch.optim.SGD(moved.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
    course.finetune_after_prune(moved, batches, optimizer=optimizer)
    course.finetune_after_prune(net, batches, lr=0.1, reg=0.01)
    assert torch.equal(moved[3].weight, net[3].weight)
    assert not torch.equal(still[3].weight, net[3].weight)
    assert shares(net)[1] == 0.5


def test_what_would_be_ignored_without_a_loader_is_refused(monkeypatch):
    net = network()
    with pytest.raises(ValueError, match="optimizer is for a trainloader"):
        course.finetune_after_prune(net, optimizer=torch.optim.SGD(net.parameters(), 0.1))
    smooth = nn.CrossEntropyLoss(label_smoothing=0.1)
    weighted = nn.CrossEntropyLoss(weight=torch.ones(10))
    for criterion in (nn.MSELoss(), smooth, weighted, lambda a, b: a.sum()):
        with pytest.raises(ValueError, match="the loss is the cross-entropy"):
            course.finetune_after_prune(net, criterion=criterion)

    def called(path=None):
        raise InterruptedError

    monkeypatch.setattr(course, "load_cifar10", called)
    with pytest.raises(InterruptedError):
        course.finetune_after_prune(net, criterion=nn.CrossEntropyLoss())


def test_the_straight_through_estimator_by_hand():
    weight = nn.Parameter(torch.tensor([0.0, -1.0, 0.2, 1.2, 2.0]))
    seen = course.STE.apply(weight, 2)
    torch.testing.assert_close(seen, torch.tensor([0.0, -1.0, 0.0, 1.0, 2.0]))
    seen.backward(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert weight.grad.tolist() == [0.0, 2.0, 3.0, 4.0, 5.0]
    narrow = torch.tensor([0.0, 0.0, 0.0, 2.0, 2.0])
    for symmetric in (True, "symmetric"):
        torch.testing.assert_close(course.STE.apply(weight, 2, symmetric), narrow)
    mid_rise = torch.tensor([0.0, -2 / 3, 2 / 3, 2 / 3, 2.0])
    torch.testing.assert_close(course.STE.apply(weight, 2, "symmetric-no-zero"), mid_rise)
    assert torch.equal(course.STE.apply(weight, 2, False), seen)
    assert torch.equal(course.STE.apply(weight, None), weight)


@pytest.mark.parametrize("symmetric", [False, True, "symmetric-no-zero"])
def test_ste_takes_any_number_of_bits(symmetric):
    weight = torch.tensor([0.0, -1.0, 0.2, 1.2, 2.0])
    assert not course.STE.apply(weight, 0, symmetric).any()
    for bits in range(9, 32):
        seen = course.STE.apply(weight, bits, symmetric)
        torch.testing.assert_close(seen, weight, rtol=0, atol=2 * 2.0 ** (1 - bits) + 1e-6)
        assert seen[0] == 0
    nine = course.STE.apply(torch.linspace(-1, 1, 10_000), 9, symmetric)
    assert len(nine.unique()) == (511 if symmetric is True else 512)
    assert torch.equal(course.STE.apply(weight, 32, symmetric), weight)


def test_ste_with_one_bit_and_a_level_at_zero_is_zero():
    assert not course.STE.apply(torch.tensor([0.0, -1.0, 2.0]), 1, True).any()


@pytest.mark.parametrize("symmetric", [False, True, "symmetric-no-zero"])
def test_fixed_point_layers_compute_with_few_values_and_keep_zeros(symmetric):
    torch.manual_seed(0)
    net = nn.Sequential(
        course.FP_Conv(3, 4, 3, stride=2, padding=1, Nbits=2, symmetric=symmetric),
        nn.Flatten(),
        course.FP_Linear(64, 5),
    )
    course.prune_by_percentage(net, q=50)
    weight = net[0].conv.weight
    zeros = weight == 0
    x = torch.randn(2, 3, 8, 8)
    few = course.STE.apply(weight, 2, symmetric)
    assert 2 <= len(few[~zeros].unique()) <= 4
    wanted = nn.functional.conv2d(x, few, stride=2, padding=1)
    assert torch.equal(net[0](x), wanted)
    assert torch.equal(net[2](wanted.flatten(1)), net[2].linear(wanted.flatten(1)))
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        net(x).square().sum().backward()
        optimizer.step()
    assert not weight[zeros].any()
    assert weight[~zeros].all()


def test_fixed_point_layers_name_their_tensors_as_the_course_does():
    layers = nn.ModuleDict({"head": course.FP_Conv(4, 4, 3, 1, 1, 1, 2, bias=True, Nbits=None)})
    layers["tail"] = course.FP_Linear(4, 2, Nbits=4, symmetric=True)
    names = ["head.conv.weight", "head.conv.bias", "tail.linear.weight", "tail.linear.bias"]
    assert list(layers.state_dict()) == names
    assert layers["head"].conv.groups == 2


def test_few_values_and_their_codewords(capsys):
    net = course.prune_by_percentage(network(), q=50)
    zeros = net[3].weight == 0
    centers = course.quantize_whole_model(net, bits=5)
    assert [len(c) for c in centers] == [32, 32]
    assert torch.equal(net[3].weight == 0, zeros)
    frequencies, encodings = course.huffman_coding(net, centers)
    assert [sum(counts.values()) for counts in frequencies] == [108, 1440]
    for counts, words in zip(frequencies, encodings, strict=True):
        assert 0.0 not in counts
        assert sum(2.0 ** -len(word) for word in words.values()) == 1  # Kraft
        ordered = sorted(words.values())
        assert not any(b.startswith(a) for a, b in itertools.pairwise(ordered))
    average = course.average_bits(frequencies, encodings)
    assert 4 < average < 5
    assert capsys.readouterr().out.splitlines()[-1] == f"average: {average:.4f} bits"
    with pytest.raises(ValueError, match="layer 0 holds values that are not among"):
        course.huffman_coding(network(), centers)
