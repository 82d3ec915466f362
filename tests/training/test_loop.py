"""Batches, schedules, evaluation, resume to the bit, and refusals."""

import copy
import dataclasses
import math
import platform
import shutil
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flyweight.cifar import Cifar10, Split
from flyweight.errors import CheckpointError, RecipeError
from flyweight.cifar import create_model
from flyweight.training import (
    PROGRESSIVE_SIZES,
    TrainingConfig,
    accuracy,
    train_,
    predict,
)
from flyweight.cifar import train
from flyweight.cifar.augmentation import (
    alternating_crops,
    augment,
    normalize,
    training_batches,
)
from flyweight.training.checkpoints import read_checkpoint, write_checkpoint
from flyweight.training.precision import choose_device

TINY = TrainingConfig(epochs=3, batch_size=16, image_sizes=((8, 0.34), (32, 0.66)))


def images(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return Split(pixels, torch.arange(count) % 10)


def same(first, second):
    ours, theirs = first.state_dict(), second.state_dict()
    return set(ours) == set(theirs) and all(torch.equal(ours[n], theirs[n]) for n in ours)


def test_augmentation_is_crop_and_flip_of_each_image_alone():
    batch = images(40).images
    result = augment(batch, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    top = torch.randint(0, 9, (40,), generator=generator)
    left = torch.randint(0, 9, (40,), generator=generator)
    flip = torch.randint(0, 2, (40,), generator=generator, dtype=torch.bool)
    padded = F.pad(batch, (4, 4, 4, 4))
    assert 0 < flip.sum() < 40
    for i in range(40):
        crop = padded[i, :, top[i] : top[i] + 32, left[i] : left[i] + 32]
        assert torch.equal(result[i], crop.flip(-1) if flip[i] else crop)


def test_normalize_by_hand():
    black = normalize(torch.zeros(1, 3, 1, 1, dtype=torch.uint8)).flatten()
    expected = torch.tensor([-0.49139968 / 0.24703223, -0.48215841 / 0.24348513])
    torch.testing.assert_close(black[:2], expected)


def test_an_epoch_shows_each_image_once_in_whole_batches():
    data = images(50)
    data = Split(data.images, torch.arange(50))
    batches = list(training_batches(data, 16, 32, torch.Generator().manual_seed(0)))
    seen = torch.cat([labels for _, labels in batches])
    assert [len(labels) for _, labels in batches] == [16, 16, 16]
    assert len(seen.unique()) == 48
    small = list(training_batches(data, 500, 20, torch.Generator().manual_seed(0)))
    assert small[0][0].shape == (50, 3, 20, 20)


def test_image_sizes_grow_over_the_epochs():
    config = TrainingConfig(epochs=20, image_sizes=PROGRESSIVE_SIZES)
    sizes = [config.image_size(epoch) for epoch in range(20)]
    assert sizes == [16] * 5 + [20] * 4 + [24] * 4 + [28] * 3 + [32] * 4


def test_the_rate_warms_up_and_falls_to_zero():
    config = TrainingConfig(learning_rate=0.4, warmup=0.1)
    rates = [config.rate(step, 1000) for step in range(1000)]
    assert max(rates) == pytest.approx(0.4)
    assert 95 <= rates.index(max(rates)) <= 105
    assert rates[0] < 0.01
    assert rates[-1] < 1e-5
    middle = config.rate(550, 1000)
    assert middle == pytest.approx(0.4 * 0.5 * (1 + math.cos(math.pi / 2)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": -1},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"warmup": 1.0},
        {"label_smoothing": 1.0},
        {"image_sizes": ((64, 1.0),)},
        {"image_sizes": ((32, 0.5),)},
        {"precision": "fp8"},
        {"temperature": float("nan")},
    ],
)
def test_impossible_settings_are_refused_by_name(wrong):
    with pytest.raises(RecipeError, match=f"training.{next(iter(wrong))}"):
        TrainingConfig(**wrong)


def test_frozen_batch_norm_keeps_its_statistics_and_learns_scale_and_bias():
    model = create_model("resnet20")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = TrainingConfig(epochs=1, batch_size=16, ema_decay=0, freeze_batch_norm=True)
    train_(model, images(32), config)
    after = model.state_dict()
    for name in ("bn1.running_mean", "bn1.running_var", "bn1.num_batches_tracked"):
        assert torch.equal(after[name], before[name])
    assert not torch.equal(after["bn1.weight"], before["bn1.weight"])
    assert not torch.equal(after["conv1.weight"], before["conv1.weight"])


@pytest.mark.parametrize("stop_after", [0, 1])
def test_a_resumed_run_reaches_the_same_bits(tmp_path, stop_after):
    def run(path, stop):
        model = create_model("resnet20")

        def after_epoch(epoch, loss):
            if epoch == stop:
                raise KeyboardInterrupt

        return model, train_(model, images(48), TINY, after_epoch=after_epoch, checkpoint=path)

    whole, result = run(None, None)
    path = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        run(path, stop_after)
    resumed, again = run(path, None)
    assert same(whole, resumed)
    assert same(result.averaged, again.averaged)
    assert result.losses == again.losses
    assert not same(whole, create_model("resnet20"))


def dropping():
    torch.manual_seed(4)
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(3072, 10))


def test_a_resumed_run_with_dropout_reaches_the_same_bits(tmp_path):
    config = dataclasses.replace(TINY, image_sizes=((32, 1.0),))

    def run(path=None, stop=None):
        def progress(text, done, total):
            if done == stop:
                raise KeyboardInterrupt

        model = dropping()
        result = train_(model, images(48), config, checkpoint=path, progress=progress)
        return model, result.losses

    whole, losses = run()
    torch.rand(7)
    again, _ = run()
    path = tmp_path / "state.pt"
    for stop in (4, 8):  # in the middle of the second and of the third epoch
        with pytest.raises(KeyboardInterrupt):
            run(path, stop)
        torch.rand(3)
    resumed, found = run(path)
    assert same(whole, again)
    assert same(whole, resumed)
    assert losses == found
    other = dropping()
    train_(other, images(48), config, seed=1)
    assert not same(whole, other)


def test_training_leaves_the_random_numbers_of_others_alone():
    model, before = dropping(), torch.get_rng_state()
    train_(model, images(16), dataclasses.replace(TINY, epochs=1, image_sizes=((32, 1.0),)))
    assert torch.equal(torch.get_rng_state(), before)


def test_random_layers_draw_anew_in_every_epoch():
    seen = []

    class Seen(nn.Dropout):
        def forward(self, inputs):
            seen.append(super().forward(torch.ones(1, 400)))
            return inputs

    model = nn.Sequential(Seen(), nn.Flatten(), nn.Linear(3072, 10))
    config = TrainingConfig(epochs=2, batch_size=16)
    train_(model, images(32), config)
    assert len({tuple(drawn.flatten().tolist()) for drawn in seen}) == 4


@pytest.mark.parametrize("wrong", [[1, 2], torch.ones(2), "text", None])
def test_a_file_that_holds_something_else_is_no_state(tmp_path, wrong):
    path = tmp_path / "state.pt"
    torch.save(wrong, path)
    with pytest.raises(CheckpointError, match="is not a training state, which is a dict"):
        read_checkpoint(path)


@pytest.mark.parametrize("key", ["config", "model", "optimizer", "averaged", "losses"])
def test_a_state_that_lacks_something_is_refused(tmp_path, key):
    path, one = tmp_path / "state.pt", dataclasses.replace(TINY, epochs=1)
    layers = [nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10)) for _ in "ab"]
    train_(layers[0], images(16), one, checkpoint=path)
    state = read_checkpoint(path)
    for wrong in (1, None):
        changed = {**state, key: wrong} if wrong else {k: v for k, v in state.items() if k != key}
        write_checkpoint(changed, path)
        with pytest.raises(CheckpointError, match=str(path)):
            train_(layers[1], images(16), one, checkpoint=path)


def test_a_state_of_another_run_is_refused(tmp_path):
    path = tmp_path / "state.pt"
    one = dataclasses.replace(TINY, epochs=1)
    train_(create_model("resnet20"), images(16), one, checkpoint=path)
    with pytest.raises(CheckpointError, match="config"):
        train_(create_model("resnet20"), images(16), TINY, checkpoint=path)
    with pytest.raises(CheckpointError, match="seed"):
        train_(create_model("resnet20"), images(16), one, seed=9, checkpoint=path)
    with pytest.raises(CheckpointError, match="another model"):
        train_(create_model("resnet20-b"), images(16), one, checkpoint=path)


def test_states_are_plain_tensors_and_damage_is_named(tmp_path):
    path = tmp_path / "state.pt"
    write_checkpoint({"a": torch.ones(2), "n": 3}, path)
    assert torch.load(path, weights_only=True)["n"] == 3
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(path)
    with pytest.raises(CheckpointError, match="no training state"):
        read_checkpoint(tmp_path / "none.pt")


def test_distillation_alone_pulls_towards_the_teacher():
    teacher = create_model("resnet20", seed=5).eval().requires_grad_(False)
    data = images(64)
    config = TrainingConfig(
        epochs=6, batch_size=16, learning_rate=0.05, distillation=1.0, ema_decay=0.0
    )
    result = train_(create_model("resnet20"), data, config, teacher=teacher)
    assert result.losses[-1] < result.losses[0]
    # With all weight on the teacher the labels play no part.
    other = train_(
        create_model("resnet20"),
        Split(data.images, (data.labels + 3) % 10),
        config,
        teacher=teacher,
    )
    assert other.losses == result.losses


@pytest.mark.parametrize("smoothing", [0.0, 0.5])
def test_the_loss_is_the_cross_entropy_of_the_augmented_batch(smoothing):
    data = images(16)
    config = TrainingConfig(epochs=1, batch_size=16, label_smoothing=smoothing, precision="fp32")
    ((batch, labels),) = training_batches(data, 16, 32, torch.Generator().manual_seed(0))
    logits = create_model("resnet20").train()(batch)
    expected = F.cross_entropy(logits, labels, label_smoothing=smoothing).item()
    result = train_(create_model("resnet20"), data, config)
    assert result.losses == (pytest.approx(expected, rel=1e-4),)


def test_accuracy_counts_hits_and_keeps_the_mode():
    model = create_model("resnet20").train()
    data = images(30)
    top = predict(model, data.images).argmax(1)
    labels = top.clone()
    labels[:6] = (labels[:6] + 1) % 10
    assert accuracy(model, Split(data.images, labels)) == pytest.approx(24 / 30)
    assert model.training
    assert torch.equal(predict(model, data.images), predict(model, data.images))


def test_train_writes_weights_card_and_history(tmp_path, monkeypatch):
    monkeypatch.setattr(Cifar10, "split", lambda self, which: images(32))
    monkeypatch.setattr(
        "flyweight.cifar.train.load_cifar10", lambda *a, **k: Cifar10(images(1), images(1))
    )
    config = dataclasses.replace(TINY, epochs=1)
    card = train("resnet20", tmp_path / "run", config=config, seed=2)
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert names == {"model.safetensors", "card.json", "history.jsonl"}
    assert card["parameters"] == 269_722
    assert card["seed"] == 2
    assert card["epochs"] == 1
    assert card["weights"] in ("last epoch", "moving average")
    assert 0 <= card["test_accuracy"] <= 1
    with pytest.raises(CheckpointError, match="finished run"):
        train("resnet20", tmp_path / "run", config=config)


def test_the_card_of_a_resumed_run_names_the_code_of_every_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr(Cifar10, "split", lambda self, which: images(32))
    monkeypatch.setattr(
        "flyweight.cifar.train.load_cifar10", lambda *a, **k: Cifar10(images(1), images(1))
    )
    config = dataclasses.replace(TINY, epochs=2)

    def stop(text, done, total):
        if text.startswith("epoch 2"):
            raise KeyboardInterrupt

    monkeypatch.setattr("flyweight.cifar.train.source_commit", lambda: "first")
    with pytest.raises(KeyboardInterrupt):
        train("resnet20", tmp_path, config=config, progress=stop)
    monkeypatch.setattr("flyweight.cifar.train.source_commit", lambda: "second")
    card = train("resnet20", tmp_path, config=config, resume=True)
    assert card["commits"] == ["first", "second"]
    assert card["commit"] == "second"


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own, of itself
def test_a_compiled_run_learns_the_same():
    if not any(map(shutil.which, ("g++", "clang++"))):
        pytest.skip("no C++ compiler")
    losses = []
    for flag in (False, True):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10))
        torch.manual_seed(0)
        model(torch.zeros(1, 3, 32, 32))
        for p in model.parameters():
            nn.init.normal_(p, std=0.01)
        config = TrainingConfig(epochs=2, batch_size=16, compile=flag, distillation=0.5)
        losses.append(train_(model, images(32), config, teacher=copy.deepcopy(model)).losses)
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[0][0] != losses[0][1]


def test_compiling_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(RecipeError, match="compile needs a C"):
        train_(nn.Linear(1, 1), images(8), dataclasses.replace(TINY, compile=True))


def test_devices_by_name():
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(RecipeError, match="'quantum'"):
        choose_device("quantum")


PAGES = """
import resource, sys
import numpy as np
from flyweight.training import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for again in range(21):
    np.ones(1 << 20)
    if not again:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")
def test_memory_that_was_freed_is_used_again():
    def faults(how):
        run = [sys.executable, "-c", PAGES, how]
        return int(subprocess.run(run, capture_output=True, text=True, check=True).stdout)

    assert faults("keep") < 0.2 * faults("let go")


def test_alternating_crops_are_parts_of_the_image_and_flips_alternate():
    image = torch.arange(32 * 32).view(1, 1, 32, 32).expand(2, 3, 32, 32)
    flips = torch.tensor([False, True])
    crop, mirrored = alternating_crops(image, flips, 24, torch.Generator().manual_seed(1))
    top, left = divmod(int(crop[0, 0, 0]), 32)
    assert 0 <= top <= 8
    assert 0 <= left <= 8
    assert torch.equal(crop[0], image[0, 0, top : top + 24, left : left + 24].float())
    assert bool((mirrored.diff(dim=-1) == -1).all())
    whole = alternating_crops(image, ~flips, 32, torch.Generator().manual_seed(2))
    assert whole.shape == (2, 3, 32, 32)
    assert set(whole[1].unique().tolist()) <= set(map(float, range(1024)))
