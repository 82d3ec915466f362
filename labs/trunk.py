"""The trunk of the frontier: a ResNet-20 on its way down in bytes, from which the rows branch off.

    python -m labs.trunk --epochs N [--kilobytes 27] [--image-size 32] [--all-images] [--seed 0]

Goes on with the trunk for N epochs, at a constant learning rate and towards a size, by the method
"rate" with the shipped dense network as the teacher; the first time it starts from that network.
Codes are never kept, so that all weights train. Writes ``labs/networks/resnet20-trunk.fly``, which
holds the weights behind the codes and the distances of levels, and a card that says how it came
about. ``python -m labs.frontier 25kB --trunk`` starts there. A run that was stopped goes on from
its last epoch when the same command is repeated.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flyweight import QuantizationConfig, Quantizer, TrainingConfig, load_recipe, save
from flyweight.cifar import AugmentedImages, create_model, load_cifar10, load_pretrained
from flyweight.cli.progress import display
from flyweight.compressed import CompressedModel
from flyweight.modules import dense_weight
from flyweight.training import choose_device, optimizer_steps, prefixed, train_
from labs.options import lab_parser, read_options
from labs.rows import STATES, origin

__all__ = ["load_trunk", "main", "trunk_card"]

FILE = Path(__file__).parent / "networks" / "resnet20-trunk.fly"
BATCH_SIZE = 128
LEARNING_RATE = 0.04
_STEP = ".step"  # after the name of a weight


def load_trunk() -> tuple[nn.Module, dict[str, float]]:
    """Return the network with its weights as they train, and the step of each weight's grid."""
    state = CompressedModel.from_bytes(FILE.read_bytes()).state_dict()
    steps = {
        name.removesuffix(_STEP): float(state.pop(name))
        for name in [*state]
        if name.endswith(_STEP)
    }
    model = create_model("resnet20")
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=False)
    return model, steps


def trunk_card() -> dict[str, Any]:
    """Return how the trunk came about; without a trunk, that it has no parts."""
    if not FILE.exists():
        return {"architecture": "resnet20", "epochs": 0, "parts": []}
    card: dict[str, Any] = json.loads(FILE.with_suffix(".json").read_text(encoding="utf-8"))
    return card


def _configs(options: argparse.Namespace, steps: dict[str, float]) -> tuple[Any, TrainingConfig]:
    recipe = load_recipe("smallest")
    assert recipe.quantization is not None
    quantization = QuantizationConfig(
        method="rate",
        allocation=recipe.quantization.allocation,
        target_bytes=round(1000 * options.kilobytes),
        target_ramp=0.2 if steps else 0.9,
        freeze_at=1.0,
        steps=steps,
    )
    training = TrainingConfig(
        epochs=options.epochs,
        learning_rate=LEARNING_RATE,
        schedule="constant",
        warmup=0.02,
        weight_decay=recipe.fine_tuning.weight_decay,
        gradient_clip=recipe.fine_tuning.gradient_clip,
        distillation=recipe.fine_tuning.distillation,
    )
    return quantization, training


def main(arguments: Sequence[str] | None = None) -> None:
    """Go on with the trunk."""
    parser = lab_parser("Go on with the trunk of the frontier.", epochs=20)
    parser.add_argument("--kilobytes", type=float, default=27.0, help="to end with, of 1,000 bytes")
    parser.add_argument("--image-size", type=int, default=32, help="side of the crops, in pixels")
    parser.add_argument("--all-images", action="store_true", help="train on all 50,000")
    options = read_options(parser, arguments)
    begin, card = time.perf_counter(), trunk_card()
    if card["parts"]:
        model, steps = load_trunk()
    else:
        model, steps = load_pretrained("resnet20"), {}
    target = choose_device(options.device)
    split = load_cifar10(options.data).split("train50k" if options.all_images else "train45k")
    seed = options.seed + len(card["parts"])  # each part sees other crops
    images = AugmentedImages(
        split.to(target),
        batch_size=BATCH_SIZE,
        seed=seed,
        image_sizes=((options.image_size, 1.0),),
        augmentation="standard" if options.image_size == 32 else "alternating",
    )
    quantization, training = _configs(options, steps)
    quantizer = Quantizer(
        model,
        quantization,
        steps=optimizer_steps(images, training) + 1,  # codes are kept after the last: never
        storage={"float_dtype": "bfloat16", "float_mantissa_bits": 3},
    )
    state = STATES / f"trunk-{len(card['parts'])}.pt"
    begun = state.exists()
    with display(quiet=False) as progress:
        result = train_(
            quantizer.model,
            images,
            training,
            teacher=load_pretrained("resnet20"),
            stage=quantizer,
            device=options.device,
            seed=seed,
            checkpoint=state,
            progress=prefixed(progress, "trunk"),
        )
    part = {
        "epochs": options.epochs,
        "kilobytes": options.kilobytes,
        "image_size": options.image_size,
        "images": "50k" if options.all_images else "45k",
        "learning_rate": LEARNING_RATE,
        "bytes": quantizer.state_dict()["rate"]["size"],
        "loss": round(result.losses[-1], 4),
    } | origin(seed, target, begin, whole=not begun)
    _write(quantizer)
    card["parts"].append(part)
    card["epochs"] += options.epochs
    FILE.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    state.unlink()
    print(part, flush=True)


def _write(quantizer: Quantizer) -> None:
    """Store the weights as they train in bfloat16, the rest as it is."""
    model = quantizer.model
    floats = dict(model.named_buffers())
    state: dict[str, Tensor] = {}
    for name in create_model("resnet20").state_dict():
        if name in quantizer.parametrizations:
            state[name] = quantizer.weights[name].detach().to(torch.bfloat16)
            state[name + _STEP] = quantizer.parametrizations[name].get_buffer("step")
        else:
            state[name] = floats[name] if name in floats else dense_weight(model, name).detach()
    FILE.parent.mkdir(exist_ok=True)
    save({name: tensor.cpu() for name, tensor in state.items()}, FILE, force=True)


if __name__ == "__main__":
    main()
