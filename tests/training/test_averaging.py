"""Moving averages of networks under masks have the same exact zeros, in our loop and in yours."""

import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from flyweight.cifar import Split
from flyweight.errors import CheckpointError, ModelError
from flyweight.own_loop_old import prepare
from flyweight.pruning import MaskedWeight
from flyweight.modules import attach_
from flyweight.recipes import PruningConfig, QuantizationConfig
from flyweight.pruning import prune_
from flyweight.quantization import quantize_
from flyweight.training import TrainingConfig, train_
from flyweight.training.checkpoints import read_checkpoint, write_checkpoint

TRAINING = TrainingConfig(epochs=3, batch_size=16, learning_rate=0.05, precision="fp32")
WEIGHTS = ("0.weight", "4.weight")


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=4), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(384, 10)
    )


def images(count=64):
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return Split(pixels, torch.arange(count) % 10)


def zeros(model):
    return sum(int((model.get_parameter(name) == 0).sum()) for name in WEIGHTS)


TOTAL = 6 * 27 + 3840


@pytest.mark.parametrize("recovery", [False, True])
def test_a_pruned_average_has_the_zeros_that_were_asked_for(recovery):
    recipe = PruningConfig(sparsity=0.7, interval=2, recovery=recovery, training=TRAINING)
    averaged, last = network(), network()
    prune_(averaged, recipe, images(), seed=0)
    without = dataclasses.replace(TRAINING, ema_decay=0.0)
    prune_(last, dataclasses.replace(recipe, training=without), images(), seed=0)
    assert zeros(averaged) == zeros(last) == round(0.7 * TOTAL)
    for name in WEIGHTS:  # the average has no part in what is pruned
        same = averaged.get_parameter(name) == last.get_parameter(name)
        assert torch.equal(same, averaged.get_parameter(name) == 0)
    assert not torch.equal(averaged[1].running_mean, last[1].running_mean)
    assert {*averaged.state_dict()} == {*network().state_dict()}


def test_the_average_under_masks_is_the_average_of_the_dense_weights_by_hand():
    model = network()
    masks = {
        name: MaskedWeight(torch.rand(model.get_parameter(name).shape) < 0.4) for name in WEIGHTS
    }
    attach_(model, masks)
    dense = model[0].parametrizations.weight.original
    expected = dense.detach().clone()
    seen = []

    def before_step(step, steps):
        nonlocal expected
        if step:  # what the step before has made
            decay = min(0.9, step / (9 + step))
            expected = decay * expected + (1 - decay) * dense.detach()
        seen.append(step)

    config = dataclasses.replace(TRAINING, ema_decay=0.9)
    result = train_(model, images(), config, before_step=before_step)
    before_step(seen[-1] + 1, 0)
    assert seen == [*range(13)]
    averaged = result.averaged[0]
    torch.testing.assert_close(averaged.parametrizations.weight.original.detach(), expected)
    assert torch.equal(averaged.weight != 0, masks["0.weight"].mask)
    assert not torch.equal(averaged.weight, model[0].weight)


def test_the_average_follows_masks_that_are_chosen_again():
    model = network()
    prepared = prepare(model, PruningConfig(sparsity=0.8, interval=1, recovery=True), steps=12)

    def before_step(step, steps):
        if step:
            prepared.step()

    result = train_(prepared.model, images(), TRAINING, before_step=before_step)
    for name, mask in prepared.masks.items():
        layer = result.averaged.get_submodule(name.removesuffix(".weight"))
        assert torch.equal(layer.weight != 0, mask)
        assert not mask.all()


def test_shared_values_are_averaged_and_stay_few():
    recipe = QuantizationConfig(bits=2, interval=2, training=TRAINING, storage="float32")
    outcomes = []
    for decay in (0.0, 0.9):
        model = network()
        with torch.no_grad():
            model[4].weight[:, ::2] = 0
        training = dataclasses.replace(TRAINING, ema_decay=decay)
        tensors = quantize_(
            model, WEIGHTS, dataclasses.replace(recipe, training=training), images(), seed=1
        )
        assert not model[4].weight[:, ::2].any()
        for name in WEIGHTS:
            assert torch.equal(tensors[name].dequantize(), model.get_parameter(name))
            assert tensors[name].levels.numel() <= 4
        outcomes.append(tensors)
    last, averaged = outcomes
    for name in WEIGHTS:
        assert torch.equal(last[name].symbols, averaged[name].symbols)
        assert not torch.equal(last[name].levels, averaged[name].levels)


def test_a_run_that_was_stopped_averages_the_same(tmp_path):
    recipe = PruningConfig(sparsity=0.7, interval=2, training=TRAINING)

    def stop(text, done, total):
        if "epoch 2" in text:
            raise KeyboardInterrupt

    whole, stopped, resumed = network(), network(), network()
    prune_(whole, recipe, images(), seed=0)
    state = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        prune_(stopped, recipe, images(), seed=0, checkpoint=state, progress=stop)
    prune_(resumed, recipe, images(), seed=0, checkpoint=state)
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("average", "buffers"),
    [(None, False), (get_ema_multi_avg_fn(0.9), False), (get_ema_multi_avg_fn(0.9), True)],
    ids=["swa", "ema", "ema with buffers"],  # swa of torch itself refuses buffers that are bool
)
def test_an_average_of_torch_keeps_the_zeros(average, buffers):
    prepared = prepare(network(), PruningConfig(sparsity=0.8, interval=5), steps=60)
    averaged = AveragedModel(prepared.model, multi_avg_fn=average, use_buffers=buffers)
    optimizer = torch.optim.AdamW(prepared.model.parameters(), 0.01, weight_decay=0.3)
    for step in range(60):
        torch.manual_seed(step)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(
            prepared.model(torch.randn(8, 3, 32, 32)), torch.randint(0, 10, (8,))
        )
        loss.backward()
        optimizer.step()
        prepared.step()
        averaged.update_parameters(prepared.model)
        for name, mask in prepared.masks.items():
            layer = averaged.module.get_submodule(name.removesuffix(".weight"))
            assert buffers or not layer.weight[~mask].any()  # else it averages the masks as well
    last = copy.deepcopy(prepared.model)
    prepared.model.load_state_dict(averaged.module.state_dict())
    done = prepared.finalize()
    assert zeros(done) == round(0.8 * TOTAL)
    assert torch.equal(done[0].weight == 0, last[0].weight == 0)
    assert not torch.equal(done[0].weight, last[0].weight)


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_a_zero_that_comes_back_stops_the_run_at_the_end_of_its_epoch(decay):
    training = dataclasses.replace(TRAINING, ema_decay=decay)
    recipe = PruningConfig(sparsity=0.7, schedule="one-shot", training=training)
    model, told = network(), []

    def progress(text, done, total):
        told.append(text)
        if done == 6:  # in the second epoch of four steps
            model[4].parametrizations.weight[0].mask.fill_(True)

    with pytest.raises(ModelError, match=r"'4.weight' has values where its mask says zero"):
        prune_(model, recipe, images(), seed=0, progress=progress)
    assert len(told) == 8


def test_a_run_that_was_stopped_goes_on_with_the_masks_that_were_chosen(tmp_path):
    recipe = PruningConfig(sparsity=0.7, schedule="one-shot", training=TRAINING)
    state = tmp_path / "state.pt"

    def stop(text, done, total):
        if "epoch 2" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune_(network(), recipe, images(), seed=0, checkpoint=state, progress=stop)
    other = dataclasses.replace(recipe, sparsity=0.6)
    with pytest.raises(CheckpointError, match="another recipe"):
        prune_(network(), other, images(), seed=0, checkpoint=state)
    kept = read_checkpoint(state)
    kept["model"]["4.parametrizations.weight.0.mask"].fill_(True)
    write_checkpoint(kept, state)
    model = network()
    prune_(model, recipe, images(), seed=0, checkpoint=state)
    assert zeros(model) == round(0.7 * TOTAL)
