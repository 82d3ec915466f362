"""Distillation of any outputs, against the formulas by hand."""

import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flyweight.batches import default_loss
from flyweight.errors import ModelError
from flyweight.training import TrainingConfig, train_
from flyweight.training.distillation import distilled_loss, frozen_teacher


def seeded(module, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        nn.init.normal_(parameter, generator=generator)
    return module


def kl(student, teacher, temperature):
    """Mean over rows of the divergence, by its definition."""
    p = F.softmax(teacher / temperature, dim=1)
    q = F.softmax(student / temperature, dim=1)
    return (p * (p / q).log()).sum(1).mean()


def test_distilled_loss_of_a_classifier_is_cross_entropy_and_kl():
    student, teacher = (seeded(nn.Linear(4, 3), seed) for seed in (1, 2))
    inputs, targets = torch.randn(6, 4), torch.arange(6) % 3
    found = distilled_loss(
        student, teacher, (inputs, targets), default_loss, weight=0.7, temperature=3.0
    )
    hard = F.cross_entropy(student(inputs), targets)
    soft = kl(student(inputs), teacher(inputs), 3.0)
    torch.testing.assert_close(found, 0.3 * hard + 0.7 * 9 * soft)


def test_distilled_loss_of_pixels_averages_over_positions():
    student, teacher = (seeded(nn.Conv2d(2, 3, 1), seed) for seed in (1, 2))
    batch = torch.randn(2, 2, 4, 5), torch.randint(0, 3, (2, 4, 5))
    found = distilled_loss(student, teacher, batch, default_loss, weight=1.0, temperature=1.0)
    logits = [model(batch[0]).permute(0, 2, 3, 1).reshape(-1, 3) for model in (student, teacher)]
    torch.testing.assert_close(found, kl(*logits, 1.0))


def test_distilled_loss_of_a_regression_is_the_mean_squared_error():
    student, teacher = (seeded(nn.Linear(4, 3), seed) for seed in (1, 2))
    batch = torch.randn(6, 4), torch.randn(6, 3)

    def loss(model, batch):
        return F.l1_loss(model(batch[0]), batch[1])

    found = distilled_loss(student, teacher, batch, loss, weight=0.25, temperature=5.0)
    soft = F.mse_loss(student(batch[0]), teacher(batch[0]))
    torch.testing.assert_close(found, 0.75 * loss(student, batch) + 0.25 * soft)


@dataclasses.dataclass
class Output:
    loss: torch.Tensor
    logits: torch.Tensor


class LanguageModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 7)

    def forward(self, input_ids, attention_mask=None, labels=None):
        logits = self.table(input_ids)
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return Output(loss, logits)


def test_distilled_loss_of_a_language_model_leaves_padding_out():
    student, teacher = (seeded(LanguageModel(), seed) for seed in (1, 2))
    tokens = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    batch = {"input_ids": tokens, "attention_mask": mask, "labels": tokens}
    found = distilled_loss(student, teacher, batch, default_loss, weight=1.0, temperature=2.0)
    rows = [model(**batch).logits[mask.bool()] for model in (student, teacher)]
    torch.testing.assert_close(found, 4 * kl(*rows, 2.0))


def test_distilled_loss_calls_the_teacher_as_the_loss_calls_the_model():
    student, teacher = (seeded(nn.Linear(4, 3), seed) for seed in (1, 2))

    def loss(model, batch):
        return F.cross_entropy(model(2 * batch["x"]), batch["y"])

    batch = {"x": torch.randn(6, 4), "y": torch.arange(6) % 3}
    found = distilled_loss(student, teacher, batch, loss, weight=1.0, temperature=1.0)
    outputs = [model(2 * batch["x"]) for model in (student, teacher)]
    torch.testing.assert_close(found, F.mse_loss(*outputs))


def test_distilled_loss_leaves_no_hook():
    student = nn.Linear(4, 3)
    batch = torch.randn(2, 4), torch.tensor([0, 1])
    distilled_loss(student, nn.Linear(4, 3), batch, default_loss, weight=0.5, temperature=1.0)
    assert not student._forward_hooks


def test_distilled_loss_refuses_what_has_no_distance():
    batch = torch.randn(2, 4), torch.tensor([0, 1])
    with pytest.raises(ModelError, match=r"shape \(2, 5\), the model \(2, 3\)"):
        distilled_loss(
            nn.Linear(4, 3), nn.Linear(4, 5), batch, default_loss, weight=0.5, temperature=1.0
        )
    with pytest.raises(ModelError, match="does not call the model"):
        distilled_loss(
            nn.Linear(4, 3),
            nn.Linear(4, 3),
            batch,
            lambda model, batch: model.weight.sum(),
            weight=0.5,
            temperature=1.0,
        )


def test_frozen_teacher_copies_only_what_is_not_ready():
    teacher = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    frozen = frozen_teacher(teacher, torch.device("cpu"))
    assert teacher.training
    assert not frozen.training
    assert frozen[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert frozen_teacher(frozen, torch.device("cpu")) is frozen


def test_train_by_distillation_alone_ignores_labels_and_spares_the_teacher():
    teacher = seeded(nn.Linear(4, 3), 5)
    before = copy.deepcopy(teacher.state_dict())
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(8, 16, 4, generator=generator)
    config = TrainingConfig(epochs=6, learning_rate=0.5, distillation=1.0)
    results = []
    for shift in (0, 1):
        labels = (torch.arange(16) + shift) % 3
        data = [(batch, labels) for batch in inputs]
        student = seeded(nn.Linear(4, 3), 6)
        results.append(train_(student, data, config, teacher=teacher, device="cpu").losses)
    assert results[0] == results[1]
    assert results[0][-1] < 0.2 * results[0][0]
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert teacher.training
