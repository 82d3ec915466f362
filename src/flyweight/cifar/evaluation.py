"""Predictions and accuracy of a classifier of CIFAR-10 images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flyweight.batches import evaluating
from flyweight.cifar.augmentation import normalize
from flyweight.cifar.dataset import Split
from flyweight.errors import ModelError

__all__ = ["accuracy", "predict"]

BATCH_SIZE = 250


@torch.no_grad()
def predict(model: nn.Module, images: Tensor) -> Tensor:
    """Compute the logits of a network in evaluation mode.

    Batches always have the same size and memory order, so that one model gives the same bits on
    one device each time. Images move to the device of the model batch by batch.

    Args:
        model: a classifier of images; its modes are restored afterwards.
        images: uint8, N×3×32×32.

    Returns:
        float32, N×K, on the device of the model.

    Raises:
        ModelError: the model does not take such images.

    Example:
        >>> from flyweight.cifar import create_model
        >>> predict(create_model("resnet20"), torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape
        torch.Size([2, 10])
    """
    first = next(model.parameters(), images)
    try:
        with evaluating(model):
            logits = [
                model(
                    normalize(batch.to(first.device)).contiguous(memory_format=torch.channels_last)
                ).float()
                for batch in torch.split(images, BATCH_SIZE)
            ]
        return torch.cat(logits)
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(
            f"the model failed on images of shape {tuple(images.shape[1:])} ({reason}); give a "
            "classifier of such images"
        ) from error


def accuracy(model: nn.Module, split: Split) -> float:
    """Measure the fraction of images whose largest logit is that of the label.

    Args:
        model: a classifier of images, on any device; its modes are restored afterwards.
        split: images and labels, `Cifar10.test` say.

    Returns:
        from 0 to 1.

    Raises:
        ModelError: the model does not take such images.

    Example:
        >>> from flyweight.cifar import create_model
        >>> split = Split(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.tensor([0, 1]))
        >>> accuracy(create_model("resnet20"), split) in (0.0, 0.5)
        True
    """
    predicted = predict(model, split.images).argmax(dim=1)
    hits = predicted == split.labels.to(predicted.device)
    return float(hits.double().mean())
