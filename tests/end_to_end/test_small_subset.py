"""The whole walk on real images: train, compress, save, load, and the same logits."""

import dataclasses
from importlib import resources

import pytest
import torch

from flyweight.compressed import CompressedTensor
from flyweight.cifar import Cifar10, Split
from flyweight.io import load, save
from flyweight.size_report import inspect
from flyweight.cifar import create_model, load_pretrained
from flyweight.compression import compress
from flyweight.proof_old import course_ratio
from flyweight.recipes import PruningConfig, Recipe, QuantizationConfig
from flyweight.training import (
    TrainingConfig,
    accuracy,
    train_,
    predict,
)

EPOCH = TrainingConfig(epochs=1, batch_size=50, learning_rate=0.05, ema_decay=0.0)
PRETRAINED = resources.files("flyweight.models") / "pretrained" / "resnet20.safetensors"


@pytest.fixture(scope="module")
def subset(cifar10):
    """1,000 real images to train on beside the 5,000 that are held out, and 500 to test on."""
    labels = cifar10.train.labels
    order = torch.cat([(labels == c).nonzero().flatten()[:600] for c in range(10)]).sort().values
    train = Split(cifar10.train.images[order], labels[order])
    return Cifar10(train, Split(cifar10.test.images[:500], cifar10.test.labels[:500]))


def test_a_resnet_becomes_a_small_file_that_loads_back_identical(tmp_path, subset):
    training = subset.split("train45k")
    assert len(training) == 1000
    model = create_model("resnet20")
    losses = train_(model, training, dataclasses.replace(EPOCH, epochs=2)).losses
    assert losses[1] < losses[0]

    recipe = Recipe(
        pruning=PruningConfig(sparsity=0.8, interval=2, training=EPOCH),
        sharing=QuantizationConfig(bits=3, training=dataclasses.replace(EPOCH, learning_rate=0.002)),
    )
    compressed = compress(model, recipe, data=subset, device="cpu")
    path = tmp_path / "resnet20.fly"
    size = save(compressed, path)

    dense = 4 * 269_722
    assert size == path.stat().st_size == inspect(path).total_bytes
    assert dense / size > 20
    assert course_ratio(compressed) > dense / size

    network = create_model("resnet20", seed=1)
    network.load_state_dict(compressed.state_dict())
    loaded = load(path, architecture="resnet20")
    images = subset.test.images
    assert torch.equal(predict(loaded, images), predict(network, images))

    coded = {n: t for n, t in compressed.items() if isinstance(t, CompressedTensor)}
    weights = [loaded.get_parameter(name) for name in coded]
    total = sum(w.numel() for w in weights)
    assert total == 269_722 - 2 * 688 - 10  # all but batch normalisation and the bias
    assert sum(int((w == 0).sum()) for w in weights) == round(0.8 * total)
    assert all(w.unique().numel() <= 2**3 + 1 for w in weights)

    # Three or four short epochs learn a little; a file of noise would score 0.1.
    assert accuracy(loaded, subset.test) > 0.15


@pytest.mark.skipif(not PRETRAINED.is_file(), reason="no weights are shipped")
def test_the_shipped_weights_survive_a_light_compression(tmp_path, cifar10, subset):
    once = dataclasses.replace(EPOCH, epochs=0)
    recipe = Recipe(
        pruning=PruningConfig(sparsity=0.3, training=once),
        sharing=QuantizationConfig(bits=5, training=once),
    )
    compressed = compress("resnet20", recipe, data=subset, device="cpu")
    size = save(compressed, tmp_path / "resnet20.fly")
    test = Split(cifar10.test.images[:1000], cifar10.test.labels[:1000])
    assert 4 * 269_722 / size > 6
    assert accuracy(load_pretrained("resnet20"), test) > 0.9
    assert accuracy(load(tmp_path / "resnet20.fly"), test) > 0.8
