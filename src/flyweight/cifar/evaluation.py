"""What a network says and how often it is right."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flyweight.cifar.dataset import Split
from flyweight.errors import ModelError
from flyweight.cifar.augmentation import normalize

__all__ = ["accuracy", "predict"]

BATCH_SIZE = 250


@torch.no_grad()
def predict(model: nn.Module, images: Tensor) -> Tensor:
    """Logits of a network in evaluation mode, in float32, for uint8 images N×3×H×W.

    Batches always have the same size and memory order, so that one model gives the same bits on
    one device each time. The model's own mode is put back afterwards.

    Raises ModelError for a model that does not take such images.
    """
    was_training = model.training
    model.eval()
    try:
        logits = [
            model(normalize(batch).contiguous(memory_format=torch.channels_last)).float()
            for batch in torch.split(images, BATCH_SIZE)
        ]
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(
            f"the model failed on images of shape {tuple(images.shape[1:])} ({reason})"
        ) from error
    finally:
        model.train(was_training)
    return torch.cat(logits)


def accuracy(model: nn.Module, data: Split) -> float:
    """Fraction of images whose largest logit is at the label."""
    hits = predict(model, data.images).argmax(dim=1) == data.labels
    return float(hits.double().mean())
