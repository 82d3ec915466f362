"""Distillation: the outputs of a teacher as soft targets."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flyweight.batches import Batch, Loss, logits_of, output_tensors, targets_of
from flyweight.errors import ModelError
from flyweight.training.precision import memory_format_for

__all__ = ["distilled_loss", "frozen_teacher"]


def frozen_teacher(teacher: nn.Module, device: torch.device) -> nn.Module:
    """Return a teacher in evaluation mode on a device; a copy where the one given is not.

    Example:
        >>> teacher = nn.Linear(2, 2)
        >>> frozen_teacher(teacher, torch.device("cpu")).training, teacher.training
        (False, True)
    """
    form = memory_format_for(teacher)
    tensors = [*teacher.parameters(), *teacher.buffers()]
    ready = all(tensor.device == device for tensor in tensors) and all(
        tensor.is_contiguous(memory_format=form)
        for tensor in tensors
        if tensor.ndim == 4 and form == torch.channels_last
    )
    if ready and not any(module.training for module in teacher.modules()):
        return teacher
    copied = copy.deepcopy(teacher).to(device=device, memory_format=form)  # type: ignore[call-overload]
    frozen: nn.Module = copied.eval()
    return frozen


def distilled_loss(
    model: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    loss: Loss,
    *,
    weight: float,
    temperature: float,
) -> Tensor:
    """Mix the loss of a batch with the distance of the outputs from those of a teacher.

    The teacher is called with the arguments with which ``loss`` calls the model. For a classifier,
    that is for integer targets or outputs with a field ``logits``, the distance is the
    Kullback-Leibler divergence at a temperature, times its square, per example or position; else
    it is the mean squared error of the output tensors.

    Args:
        model: the student; ``loss`` has to call it.
        teacher: on the same device.
        batch: of any form.
        loss: of the student.
        weight: of the distance, from 0 to 1.
        temperature: of both distributions.

    Returns:
        a scalar.

    Raises:
        ModelError: ``loss`` does not call the model, or the outputs differ in form.

    Example:
        >>> student, teacher = nn.Linear(2, 3), nn.Linear(2, 3)
        >>> batch = torch.randn(4, 2), torch.tensor([0, 1, 2, 0])
        >>> from flyweight.batches import default_loss
        >>> distilled_loss(student, teacher, batch, default_loss, weight=0.5, temperature=2).shape
        torch.Size([])

    Source: Hinton et al. 2015, "Distilling the knowledge in a neural network", §2.
    """
    calls: list[tuple[tuple[Any, ...], dict[str, Any], Any]] = []

    def record(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> Any:
        if isinstance(outputs, Tensor) and outputs.is_floating_point():
            outputs = outputs if outputs.element_size() > 2 else outputs.float()
        calls.append((args, kwargs, outputs))  # both losses add their gradients in float32
        return outputs

    handle = model.register_forward_hook(record, with_kwargs=True)
    try:
        hard = loss(model, batch)
    finally:
        handle.remove()
    if not calls:
        raise ModelError(
            "loss does not call the model that it is given, so there are no outputs to distil; "
            "call model(...) in it"
        )
    args, kwargs, outputs = calls[0]
    with torch.no_grad():
        targets = teacher(*args, **kwargs)
    return (1 - weight) * hard + _soft_loss(outputs, targets, batch, weight, temperature)


def _soft_loss(
    outputs: Any, targets: Any, batch: Batch, weight: float, temperature: float
) -> Tensor:
    student, teacher = _class_logits(outputs, batch), _class_logits(targets, batch)
    if student is None or teacher is None:
        return weight * _mean_squared_error(outputs, targets)
    _check_shapes(student, teacher)
    log_student = F.log_softmax(student / temperature, dim=-1)
    log_teacher = F.log_softmax(teacher / temperature, dim=-1)
    mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
    if isinstance(mask, Tensor) and mask.shape == log_student.shape[:-1]:
        log_student, log_teacher = log_student[mask.bool()], log_teacher[mask.bool()]
    positions = max(1, log_student.numel() // log_student.shape[-1])
    divergence = F.kl_div(log_student, log_teacher, reduction="sum", log_target=True)
    return weight * temperature**2 * (divergence / positions)


def _class_logits(outputs: Any, batch: Batch) -> Tensor | None:
    """The logits of a classifier in float32 with the classes last; None for other models."""
    logits, targets = logits_of(outputs), targets_of(batch)
    if logits is None or logits.ndim < 2:
        return None
    integer = isinstance(targets, Tensor) and not (
        targets.is_floating_point() or targets.is_complex()
    )
    named = not isinstance(outputs, Tensor | tuple | list) or hasattr(outputs, "logits")
    classes_last = isinstance(batch, Mapping) and logits.ndim == 3  # N×T×K of language models
    logits = logits if classes_last else logits.movedim(1, -1)
    return logits.float() if (integer or named) and logits.shape[-1] > 1 else None


def _mean_squared_error(outputs: Any, targets: Any) -> Tensor:
    """Mean over the output tensors; scalars, such as a loss among them, are no outputs."""
    student = {name: tensor for name, tensor in output_tensors(outputs).items() if tensor.ndim}
    teacher = {name: tensor for name, tensor in output_tensors(targets).items() if tensor.ndim}
    if student.keys() != teacher.keys() or not student:
        raise ModelError(
            f"the teacher gives outputs {', '.join(map(repr, teacher))}, the model "
            f"{', '.join(map(repr, student))}; give a teacher with the same outputs"
        )
    errors = []
    for name, tensor in student.items():
        _check_shapes(tensor, teacher[name])
        errors.append(F.mse_loss(tensor.float(), teacher[name].float()))
    return torch.stack(errors).mean()


def _check_shapes(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise ModelError(
            f"the teacher gives outputs of shape {tuple(teacher.shape)}, the model "
            f"{tuple(student.shape)}; give a teacher with the same outputs"
        )
