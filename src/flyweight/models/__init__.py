"""Networks known by name, and the pretrained weights that come with flyweight."""

from flyweight.models.registry import architectures, create_model, load_pretrained, pretrained_card
from flyweight.models.resnet import CifarResNet

__all__ = [
    "CifarResNet",
    "architectures",
    "create_model",
    "load_pretrained",
    "pretrained_card",
]
