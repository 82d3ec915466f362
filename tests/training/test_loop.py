"""The training loop on any loader, loss and model; resume to the bit; refusals."""

import copy
import dataclasses
import shutil

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from flyweight.batch_norm import fold_batch_norms_
from flyweight.errors import CheckpointError, DataError, ModelError, RecipeError
from flyweight.training import TrainingConfig, optimizer_steps, read_checkpoint, train_
from flyweight.training import write_checkpoint as rewrite

TINY = TrainingConfig(epochs=3, learning_rate=0.05, ema_decay=0.9, precision="fp32")


def examples(count=48, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 3, 4, 4, generator=generator)
    return TensorDataset(inputs, torch.arange(count) % 5)


def batches(count=48, size=16):
    return list(DataLoader(examples(count), batch_size=size))


def network(seed=0, dropout=0.0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(dropout), nn.Linear(16, 5)
    )


def same(first, second):
    ours, theirs = first.state_dict(), second.state_dict()
    return set(ours) == set(theirs) and all(torch.equal(ours[n], theirs[n]) for n in ours)


def train(model, data, config=TINY, **settings):
    return train_(model, data, config, device="cpu", **settings)


# --- the arithmetic -------------------------------------------------------------------------------


def test_train_equals_a_loop_of_torch():
    data = batches()
    config = TrainingConfig(epochs=2, learning_rate=0.1, ema_decay=0.9, precision="fp32")
    ours = network()
    result = train(ours, data, config)
    theirs = network().to(memory_format=torch.channels_last).train()
    averaged = copy.deepcopy(theirs)
    matrices = [p for p in theirs.parameters() if p.ndim > 1]
    vectors = [p for p in theirs.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 5e-4}, {"params": vectors, "weight_decay": 0}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    losses, step = [], 0
    for _ in range(2):
        losses.append(0.0)
        for inputs, targets in data:
            for group in optimizer.param_groups:
                group["lr"] = config.rate(step, 6)
            loss = F.cross_entropy(theirs(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            decay = min(0.9, (1 + step) / (10 + step))
            for mean, now in zip(averaged.parameters(), theirs.parameters(), strict=True):
                mean.data.lerp_(now.data, 1 - decay)
            losses[-1] += loss.item() / 3
            step += 1
    assert same(ours, theirs)
    for mean, expected in zip(result.averaged.parameters(), averaged.parameters(), strict=True):
        assert torch.equal(mean, expected)
    assert result.losses == pytest.approx(losses)
    assert result.model is result.averaged
    assert result.averaged[1].num_batches_tracked == 6


def test_train_without_average_gives_the_model():
    model = network()
    result = train(model, batches(), dataclasses.replace(TINY, ema_decay=0.0))
    assert result.averaged is None
    assert result.model is model


@pytest.mark.parametrize("smoothing", [0.0, 0.5])
def test_train_smooths_labels_of_the_default_loss(smoothing):
    ((inputs, targets),) = batches(16)
    expected = F.cross_entropy(network()(inputs), targets, label_smoothing=smoothing).item()
    config = dataclasses.replace(TINY, epochs=1, label_smoothing=smoothing)
    assert train(network(), [(inputs, targets)], config).losses == (pytest.approx(expected),)


def test_train_accumulates_gradients_of_several_batches():
    """Without batch statistics, two batches of 16 in one step equal one of 32."""
    small, large = batches(80, 16), batches(80, 32)
    frozen = TrainingConfig(epochs=2, learning_rate=0.1, precision="fp32", freeze_batch_norm=True)
    accumulated = dataclasses.replace(frozen, accumulation_steps=2)
    assert optimizer_steps(small, accumulated) == optimizer_steps(large, frozen) == 6
    ours, theirs, stages = network(), network(), []
    train(ours, small, accumulated, progress=lambda *step: stages.append(step))
    train(theirs, large, frozen)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)
    assert [(done, total) for _, done, total in stages] == [(n, 6) for n in range(1, 7)]
    assert stages[3][0] == "epoch 2 of 2"


def test_train_clips_the_norm_of_all_gradients():
    model, data = network(), batches(16)
    before = copy.deepcopy(model.state_dict())
    config = TrainingConfig(
        epochs=1, learning_rate=1.0, schedule="constant", warmup=0.0, momentum=0.0,
        weight_decay=0.0, gradient_clip=1e-3, precision="fp32",
    )  # fmt: skip
    train(model, data, config)
    after = model.state_dict()
    names = [name for name, _ in model.named_parameters()]
    moved = sum(float((after[name] - before[name]).square().sum()) for name in names)
    assert moved**0.5 == pytest.approx(1e-3, rel=1e-3)


def test_train_freezes_statistics_of_batch_norm_and_trains_its_scale():
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(model, batches(), dataclasses.replace(TINY, freeze_batch_norm=True))
    after = model.state_dict()
    for name in ("1.running_mean", "1.running_var", "1.num_batches_tracked"):
        assert torch.equal(after[name], before[name])
    assert not torch.equal(after["1.weight"], before["1.weight"])
    assert not torch.equal(after["0.weight"], before["0.weight"])


def test_train_leaves_batch_norm_frozen_that_is_in_evaluation_mode():
    config = dataclasses.replace(TINY, ema_decay=0)
    ours, frozen, loaded, usual = network(), network(), network().eval(), network()
    ours[1].eval()
    train(ours, batches(), config)
    train(frozen, batches(), dataclasses.replace(config, freeze_batch_norm=True))
    assert same(ours, frozen)
    assert (ours[1].training, frozen[1].training) == (False, True)
    for model in (loaded, usual):  # a model in evaluation mode as a whole trains as before
        train(model, batches(), config)
    assert same(loaded, usual)
    assert not torch.equal(usual[1].running_mean, frozen[1].running_mean)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_train_uses_the_type_of_a_model_that_is_not_float32(dtype, monkeypatch):
    monkeypatch.setattr("flyweight.training.precision._fast_bfloat16", lambda device: True)
    seen = []

    def loss(model, batch):
        outputs = model(batch[0].to(dtype))
        seen.append(outputs.dtype)
        return F.cross_entropy(outputs, batch[1])

    config = dataclasses.replace(TINY, epochs=1, learning_rate=1e-3, precision="auto")
    train(network().to(dtype), batches(), config, loss=loss)
    assert set(seen) == {dtype}


def test_train_takes_an_optimizer_and_scales_its_rates():
    seen = []

    def factory(model):
        return torch.optim.Adagrad(
            [{"params": [*model[0].parameters()], "lr": 1.0},
             {"params": [*model[4].parameters()], "lr": 0.1}]
        )  # fmt: skip

    optimizers = []
    train(
        network(),
        batches(),
        TrainingConfig(epochs=1, learning_rate=0.2, warmup=0.0),
        optimizer=factory,
        attach=optimizers.append,
        progress=lambda *_: seen.append([g["lr"] for g in optimizers[0].param_groups]),
    )
    assert [type(found) for found in optimizers] == [torch.optim.Adagrad]
    assert seen == [pytest.approx([s, 0.1 * s]) for s in (1.0, 0.75, 0.25)]


def test_train_takes_mappings_and_losses_of_the_model():
    class Model(nn.Linear):
        def forward(self, x, labels):
            return {"loss": F.cross_entropy(super().forward(x), labels)}

    data = [{"x": torch.randn(6, 4), "labels": torch.arange(6) % 3} for _ in range(3)]
    model = Model(4, 3)
    assert len(train(model, data).losses) == 3
    with pytest.raises(RecipeError, match="label_smoothing has no effect on batches that are map"):
        train(model, data, dataclasses.replace(TINY, label_smoothing=0.1))


def test_train_takes_inputs_alone_with_a_loss():
    data = list(torch.randn(4, 8, 6))
    model = nn.Sequential(nn.Linear(6, 2), nn.Linear(2, 6))
    config = TrainingConfig(epochs=20, learning_rate=0.05)
    losses = train(model, data, config, loss=lambda m, x: F.mse_loss(m(x), x)).losses
    assert losses[-1] < losses[0]


# --- loaders --------------------------------------------------------------------------------------


class Epochs(list):
    def __init__(self, *args):
        super().__init__(*args)
        self.calls = []

    def set_epoch(self, epoch):
        self.calls.append(("epoch", epoch))

    def set_seed(self, seed):
        self.calls.append(("seed", seed))


def test_train_tells_the_loader_its_epoch_and_seed():
    data = Epochs(batches())
    train(network(), data, dataclasses.replace(TINY, epochs=2), seed=7)
    assert data.calls == [
        ("epoch", 0), ("seed", 7), ("epoch", 1), ("seed", 7), ("epoch", 0), ("seed", 0),
    ]  # fmt: skip


def test_train_tells_samplers_their_epoch():
    class Sampler(torch.utils.data.SequentialSampler):
        epochs = ()

        def set_epoch(self, epoch):
            self.epochs += (epoch,)

    data = examples()
    sampler = Sampler(data)
    train(network(), DataLoader(data, 16, sampler=sampler), dataclasses.replace(TINY, epochs=2))
    assert sampler.epochs == (0, 1, 0)


@pytest.mark.parametrize("generator", [None, 3])
def test_train_shuffles_by_seed_and_epoch_alone(generator):
    def order(seed):
        seen = []

        def loss(model, batch):
            seen.append(tuple(batch[0][:, 0, 0, 0].tolist()))
            return F.cross_entropy(model(batch[0]), batch[1])

        own = None if generator is None else torch.Generator().manual_seed(generator)
        loader = DataLoader(examples(), batch_size=16, shuffle=True, generator=own)
        torch.rand(int(torch.randint(9, ())))  # whatever the global generator is at
        before = None if own is None else own.get_state()
        train(network(), loader, dataclasses.replace(TINY, epochs=2), loss=loss, seed=seed)
        assert own is None or torch.equal(own.get_state(), before)
        return seen

    first = order(0)
    assert first == order(0)
    assert first != order(1)
    assert set(first[:3]) != set(first[3:])
    assert sorted(sum(first[:3], ())) == sorted(sum(first[3:], ()))


def test_train_refuses_data_that_is_no_loader():
    for data, said in [
        ([], "empty"),
        (torch.ones(3, 2), "Tensor"),
        (iter(batches()), "no length"),
        (["text"], "type str"),
    ]:
        with pytest.raises(DataError, match=said):
            train(network(), data)


def test_train_refuses_a_loader_that_runs_dry():
    class Once(list):
        passes = 0

        def __iter__(self):
            self.passes += 1
            return super().__iter__() if self.passes < 3 else iter(())

    with pytest.raises(DataError, match="gave 0 batches in epoch 2 and has a length of 3"):
        train(network(), Once(batches()))


# --- losses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_train_stops_at_a_loss_that_is_not_finite(value):
    calls = []

    def loss(model, batch):
        calls.append(1)
        found = F.cross_entropy(model(batch[0]), batch[1])
        return found * value if len(calls) == 5 else found

    model = network()
    with pytest.raises(ModelError, match=f"the loss is {value} at step 5 of 9; lower"):
        train(model, batches(), loss=loss)
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (lambda m, b: m(b[0]), r"of shape \(16, 5\) and not a scalar"),
        (lambda m, b: 1.0, "of a float and not a scalar"),
        (lambda m, b: torch.ones(()), "has no gradient"),
        (lambda m, b: m(b[0][:, :1]).sum(), r"failed on the first batch of data, inputs of shape"),
    ],
)
def test_train_refuses_losses_that_cannot_be_minimized(loss, said):
    with pytest.raises(ModelError, match=said):
        train(network(), batches(), loss=loss)


def test_train_refuses_settings_without_effect():
    with pytest.raises(RecipeError, match="label_smoothing has no effect on a loss of your own"):
        train(
            network(),
            batches(),
            dataclasses.replace(TINY, label_smoothing=0.1),
            loss=lambda m, b: m(b[0]).sum(),
        )
    with pytest.raises(ModelError, match="there is no teacher"):
        train(network(), batches(), dataclasses.replace(TINY, distillation=0.5))


def test_train_refuses_models_that_cannot_train():
    with pytest.raises(ModelError, match="unfreeze"):
        train(network().requires_grad_(False), batches())
    other = network()
    with pytest.raises(ModelError, match="trains no parameter of the model"):
        train(network(), batches(), optimizer=lambda m: torch.optim.SGD(other.parameters(), 0.1))
    folded = network().eval()
    fold_batch_norms_(folded)
    with pytest.raises(ModelError, match="fold"):
        train(folded, batches())


# --- random numbers -------------------------------------------------------------------------------


def test_train_restores_the_generator_of_torch():
    before = torch.get_rng_state()
    model = network(dropout=0.5)
    torch.set_rng_state(before)
    train(model, DataLoader(examples(), 16, shuffle=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_train_draws_other_dropout_in_every_step():
    seen = []

    class Seen(nn.Dropout):
        def forward(self, inputs):
            seen.append(super().forward(torch.ones(1, 400)))
            return inputs

    model = nn.Sequential(Seen(), nn.Flatten(), nn.Linear(48, 5))
    train(model, batches(32), dataclasses.replace(TINY, epochs=2))
    assert len({tuple(drawn.flatten().tolist()) for drawn in seen}) == 4


# --- resuming -------------------------------------------------------------------------------------


class Counting:
    """A stage that counts, and fails at its check if broken."""

    def __init__(self, broken=False):
        self.number, self.checks, self.broken = 0, 0, broken

    def step(self):
        self.number += 1

    def penalty(self):
        return None

    def check(self):
        self.checks += 1
        if self.broken:
            raise ModelError("a zero was revived")

    def state_dict(self):
        return {"number": self.number}

    def load_state_dict(self, state):
        self.number = state["number"]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_train_resumes_to_the_same_bits(tmp_path, optimizer, dropout):
    config = dataclasses.replace(TINY, optimizer=optimizer)
    path = tmp_path / "state.pt"

    def run(checkpoint=None, stop=None):
        def progress(text, done, total):
            if done == stop:
                raise KeyboardInterrupt

        model, stage = network(dropout=dropout), Counting()
        loader = DataLoader(examples(), 16, shuffle=True)
        result = train(model, loader, config, checkpoint=checkpoint, progress=progress, stage=stage)
        assert stage.number == 9
        return model, result

    whole, result = run()
    for stop in (4, 8):  # in the middle of the second and of the third epoch
        with pytest.raises(KeyboardInterrupt):
            run(path, stop)
        torch.rand(3)
    resumed, again = run(path)
    assert same(whole, resumed)
    assert same(result.averaged, again.averaged)
    assert result.losses == again.losses
    finished, last = run(path)  # nothing is left to do
    assert same(whole, finished)
    assert last.losses == result.losses


def test_train_steps_and_checks_its_stage_before_a_state_is_written(tmp_path):
    stage = Counting()
    train(network(), batches(), stage=stage, checkpoint=tmp_path / "state.pt")
    assert (stage.number, stage.checks) == (9, 3)
    assert read_checkpoint(tmp_path / "state.pt")["stage"] == {"number": 9}
    with pytest.raises(ModelError, match="revived"):
        train(network(), batches(), stage=Counting(broken=True), checkpoint=tmp_path / "b.pt")
    assert not (tmp_path / "b.pt").exists()


@pytest.mark.parametrize(("stop", "said"), [(2, "no state was saved"), (5, "after epoch 1 is in")])
def test_train_notes_whether_a_state_was_saved_when_it_is_interrupted(tmp_path, stop, said):
    def progress(text, done, total):
        if done == stop:
            raise KeyboardInterrupt

    path = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt) as caught:
        train(network(), batches(), checkpoint=path, progress=progress)
    (note,) = caught.value.__notes__
    assert said in note
    assert (str(path) in note) == path.exists() == (stop == 5)


def test_train_refuses_the_state_of_another_run(tmp_path):
    path = tmp_path / "state.pt"
    train(network(), batches(), checkpoint=path)
    for settings, said in [
        ({"config": dataclasses.replace(TINY, epochs=4)}, "config"),
        ({"seed": 9}, "seed"),
        ({"data": batches(32)}, "batches"),
    ]:
        with pytest.raises(CheckpointError, match=f"belongs to a run with {said}"):
            train(network(), checkpoint=path, **{"data": batches(), **settings})
    with pytest.raises(CheckpointError, match="another model"):
        train(nn.Sequential(nn.Flatten(), nn.Linear(48, 5)), batches(), checkpoint=path)
    with pytest.raises(CheckpointError, match=f"{path} "):
        train(network(), batches(), checkpoint=path, stage=Counting())


@pytest.mark.parametrize("key", ["config", "model", "optimizer", "averaged", "losses", "stage"])
def test_train_refuses_states_that_lack_something(tmp_path, key):
    path = tmp_path / "state.pt"
    train(network(), batches(), checkpoint=path, stage=Counting())
    state = read_checkpoint(path)
    values = (1, "text", [], {}, [float("nan")], [0.5] * 9, torch.ones(2), None)
    changes = [{k: v for k, v in state.items() if k != key}]
    changes += [{**state, key: value} for value in values]
    for changed in changes:
        rewrite(changed, path)
        if key == "losses" and changed.get(key) == []:
            continue  # a run that has made no epoch
        with pytest.raises(CheckpointError, match=str(path)):
            train(network(), batches(), checkpoint=path, stage=Counting())


# --- compilation ----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own, of itself
def test_train_compiles_the_model_and_distills_it():
    if not any(map(shutil.which, ("g++", "clang++"))):
        pytest.skip("no C++ compiler")
    losses = []
    for flag in (False, True):
        model = nn.Sequential(nn.Flatten(), nn.Linear(48, 4), nn.ReLU(), nn.Linear(4, 5))
        generator = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3, generator=generator)
        config = TrainingConfig(epochs=2, compile=flag, distillation=0.5, precision="fp32")
        teacher = copy.deepcopy(model)
        losses.append(train(model, batches(32), config, teacher=teacher).losses)
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[0][0] != losses[0][1]


def test_train_without_a_compiler_refuses_to_compile(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(RecipeError, match="compile needs a C"):
        train(network(), batches(), dataclasses.replace(TINY, compile=True))


@pytest.mark.gpu
def test_train_stops_at_a_loss_that_is_not_finite_on_an_accelerator():
    calls = []

    def loss(model, batch):
        calls.append(1)
        found = F.cross_entropy(model(batch[0]), batch[1])
        return found * float("nan") if len(calls) == 5 else found

    with pytest.raises(ModelError, match="the loss is nan at step 5 of 9"):
        train_(network(), batches(), TINY, loss=loss, device="cuda")
