"""Pruners and quantizers that follow the training loop; moving averages keep exact zeros."""

import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from flyweight.errors import CheckpointError, ModelError
from flyweight.modules import attach_
from flyweight.pruning import MaskedWeight, Pruner, PruningConfig
from flyweight.quantization import QuantizationConfig, Quantizer
from flyweight.training import (
    TrainingConfig,
    optimizer_steps,
    read_checkpoint,
    train_,
    write_checkpoint,
)

TRAINING = TrainingConfig(epochs=3, learning_rate=0.05, ema_decay=0.999, precision="fp32")
WEIGHTS = ("0.weight", "4.weight")
TOTAL = 6 * 27 + 3840


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=4), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(384, 10)
    )


def batches():
    generator = torch.Generator().manual_seed(3)
    return [
        (torch.randn(16, 3, 32, 32, generator=generator), torch.arange(16) % 10) for _ in range(4)
    ]  # fmt: skip


def pruner(config=None, training=TRAINING, model=None):
    config = config or PruningConfig(sparsity=0.7, interval=2)
    return Pruner(model or network(), config, steps=optimizer_steps(batches(), training))


def trained(stage, training=TRAINING, **settings):
    """Train the model of a stage as `compress` does."""
    result = train_(stage.model, batches(), training, stage=stage, device="cpu", **settings)
    if result.averaged is not None:
        stage.model.load_state_dict(result.averaged.state_dict())
        stage.check()
    return stage


def zeros(model):
    return sum(int((model.get_parameter(name) == 0).sum()) for name in WEIGHTS)


@pytest.mark.parametrize("allow_regrowth", [False, True])
def test_train_of_a_pruner_averages_and_keeps_the_sparsity(allow_regrowth):
    config = PruningConfig(sparsity=0.7, interval=2, allow_regrowth=allow_regrowth)
    averaged = trained(pruner(config)).finalize()
    last = trained(pruner(config), dataclasses.replace(TRAINING, ema_decay=0.0)).finalize()
    assert zeros(averaged) == zeros(last) == round(0.7 * TOTAL)
    for name in WEIGHTS:  # the average has no part in what is pruned
        same = averaged.get_parameter(name) == last.get_parameter(name)
        assert torch.equal(same, averaged.get_parameter(name) == 0)
    assert not torch.equal(averaged[1].running_mean, last[1].running_mean)
    assert [*averaged.state_dict()] == [*network().state_dict()]


def test_train_averages_the_dense_weights_behind_masks():
    model = network()
    masks = {
        name: MaskedWeight(torch.rand(model.get_parameter(name).shape) < 0.4) for name in WEIGHTS
    }
    attach_(model, masks)
    dense = model[0].parametrizations.weight.original
    expected, steps = dense.detach().clone(), 0

    def follow(text, done, total):
        nonlocal expected, steps
        decay = min(0.9, done / (9 + done))
        expected = decay * expected + (1 - decay) * dense.detach()
        steps = done

    config = dataclasses.replace(TRAINING, ema_decay=0.9)
    result = train_(model, batches(), config, progress=follow, device="cpu")
    assert steps == 12
    averaged = result.averaged[0]
    torch.testing.assert_close(averaged.parametrizations.weight.original.detach(), expected)
    assert torch.equal(averaged.weight != 0, masks["0.weight"].mask)
    assert not torch.equal(averaged.weight, model[0].weight)


def test_train_averages_under_the_masks_of_the_last_step():
    stage = pruner(PruningConfig(sparsity=0.8, interval=1, allow_regrowth=True))
    result = train_(stage.model, batches(), TRAINING, stage=stage, device="cpu")
    for name, mask in stage.masks.items():
        layer = result.averaged.get_submodule(name.removesuffix(".weight"))
        assert torch.equal(layer.weight != 0, mask)
        assert not mask.all()


def test_train_of_a_quantizer_averages_levels_and_keeps_symbols():
    config = QuantizationConfig(bits=2, assignment_interval=2, level_dtype="float32")
    outcomes = []
    for decay in (0.0, 0.9):
        model = network()
        with torch.no_grad():
            model[4].weight[:, ::2] = 0
        quantizer = Quantizer(model, config, steps=12, seed=1)
        trained(quantizer, dataclasses.replace(TRAINING, ema_decay=decay))
        tensors = quantizer.finalize(fold_batch_norm=False)
        assert not quantizer.model[4].weight[:, ::2].any()
        for name in WEIGHTS:
            assert torch.equal(tensors[name].dequantize(), quantizer.model.get_parameter(name))
            assert tensors[name].levels.numel() <= 4
        outcomes.append(tensors)
    last, averaged = outcomes
    for name in WEIGHTS:
        assert torch.equal(last[name].symbols, averaged[name].symbols)
        assert not torch.equal(last[name].levels, averaged[name].levels)


def stop(text, done, total):
    if "epoch 2" in text:
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    "config",
    [
        PruningConfig(sparsity=0.7, interval=2),
        PruningConfig(sparsity=0.7, interval=1, allow_regrowth=True),
        QuantizationConfig(bits=2, assignment_interval=2),
        QuantizationConfig(method="learned-step", bits=3),
    ],
)
def test_train_of_a_stage_resumes_to_the_same_bits(tmp_path, config):
    def stage():
        kind = Pruner if isinstance(config, PruningConfig) else Quantizer
        return kind(network(), config, steps=12)

    whole, state = trained(stage()), tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        trained(stage(), checkpoint=state, progress=stop)
    resumed = trained(stage(), checkpoint=state)
    whole.finalize()
    resumed.finalize()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("average", "buffers"),
    [(None, False), (get_ema_multi_avg_fn(0.9), False), (get_ema_multi_avg_fn(0.9), True)],
    ids=["swa", "ema", "ema with buffers"],  # swa of torch itself refuses buffers that are bool
)
def test_pruner_keeps_zeros_under_an_average_of_torch(average, buffers):
    stage = Pruner(network(), PruningConfig(sparsity=0.8, interval=5), steps=60)
    averaged = AveragedModel(stage.model, multi_avg_fn=average, use_buffers=buffers)
    optimizer = torch.optim.AdamW(stage.model.parameters(), 0.01, weight_decay=0.3)
    for step in range(60):
        torch.manual_seed(step)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(
            stage.model(torch.randn(8, 3, 32, 32)), torch.randint(0, 10, (8,))
        )
        loss.backward()
        optimizer.step()
        stage.step()
        averaged.update_parameters(stage.model)
        for name, mask in stage.masks.items():
            layer = averaged.module.get_submodule(name.removesuffix(".weight"))
            assert buffers or not layer.weight[~mask].any()  # else it averages the masks as well
    last = copy.deepcopy(stage.model)
    stage.model.load_state_dict(averaged.module.state_dict())
    done = stage.finalize()
    assert zeros(done) == round(0.8 * TOTAL)
    assert torch.equal(done[0].weight == 0, last[0].weight == 0)
    assert not torch.equal(done[0].weight, last[0].weight)


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_train_stops_at_the_end_of_an_epoch_in_which_a_zero_revives(tmp_path, decay):
    training = dataclasses.replace(TRAINING, ema_decay=decay)
    stage, steps = pruner(PruningConfig(sparsity=0.7, schedule="one-shot")), []

    def progress(text, done, total):
        steps.append(done)
        if done == 6:  # in the second epoch of four steps
            stage.model[4].parametrizations.weight[0].mask.fill_(True)

    state = tmp_path / "state.pt"
    with pytest.raises(ModelError, match=r"'4.weight' has values where its mask says zero"):
        trained(stage, training, progress=progress, checkpoint=state)
    assert len(steps) == 8
    assert len(read_checkpoint(state)["losses"]) == 1


def test_train_of_a_pruner_resumes_with_its_own_masks(tmp_path):
    config = PruningConfig(sparsity=0.7, schedule="one-shot")
    path = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        trained(pruner(config), checkpoint=path, progress=stop)
    with pytest.raises(CheckpointError, match="another configuration"):
        trained(pruner(dataclasses.replace(config, sparsity=0.6)), checkpoint=path)
    state = read_checkpoint(path)
    state["model"]["4.parametrizations.weight.0.mask"].fill_(True)
    write_checkpoint(state, path)
    assert zeros(trained(pruner(config), checkpoint=path).finalize()) == round(0.7 * TOTAL)
