"""Networks known by name, the pretrained weights that come with flyweight, and checkpoint files."""

from flyweight.models.checkpoint_files import (
    Architecture,
    build,
    fill_,
    read_state_dict,
    write_state_dict,
)
from flyweight.models.digest import add_network_
from flyweight.models.registry import architectures, create_model, load_pretrained, pretrained_card
from flyweight.models.resnet import CifarResNet

__all__ = [
    "Architecture",
    "CifarResNet",
    "add_network_",
    "architectures",
    "build",
    "create_model",
    "fill_",
    "load_pretrained",
    "pretrained_card",
    "read_state_dict",
    "write_state_dict",
]
