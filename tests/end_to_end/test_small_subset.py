"""Train, compress, save and load on real images, with identical logits at the end."""

import pytest
import torch

from flyweight.cifar import (
    AugmentedImages,
    Cifar10,
    Split,
    accuracy,
    create_model,
    load_pretrained,
    predict,
)
from flyweight.compressed import CompressedTensor
from flyweight.compression import compress
from flyweight.io import load, save
from flyweight.pruning import PruningConfig
from flyweight.quantization import QuantizationConfig
from flyweight.recipes import Recipe
from flyweight.size_report import inspect
from flyweight.training import TrainingConfig, train_

DENSE = 4 * 269_722  # bytes


@pytest.fixture(scope="module")
def subset(cifar10):
    """500 real images to train on beside the 5,000 that are held out, and 250 to test on."""
    labels = cifar10.train.labels
    order = torch.cat([(labels == c).nonzero().flatten()[:550] for c in range(10)]).sort().values
    train = Split(cifar10.train.images[order], labels[order])
    return Cifar10(train, Split(cifar10.test.images[:250], cifar10.test.labels[:250]))


def task(subset):
    return {
        "data": AugmentedImages(subset.split("train45k"), batch_size=50),
        "evaluate": lambda model: accuracy(model, subset.test),
        "device": "cpu",
    }


def test_train_from_initial_weights_lowers_the_loss(subset):
    data = AugmentedImages(
        subset.split("train45k"), batch_size=50, image_sizes=((16, 1.0),), epochs=3
    )
    assert len(data) == 10
    model = create_model("resnet20")
    config = TrainingConfig(epochs=3, learning_rate=0.05)
    losses = train_(model, data, config, device="cpu").losses
    assert losses[2] < losses[0]


def test_compress_gives_a_small_file_that_loads_identical(tmp_path, subset):
    recipe = Recipe(
        pruning=PruningConfig(sparsity=0.8, interval=2),
        retraining=TrainingConfig(epochs=2, learning_rate=0.02),
        quantization=QuantizationConfig(bits=3),
        fine_tuning=TrainingConfig(epochs=1, learning_rate=0.002),
    )
    compressed = compress(load_pretrained("resnet20"), recipe, **task(subset))
    path = tmp_path / "resnet20.fly"
    size = save(compressed, path)
    assert size == path.stat().st_size == inspect(path).total_bytes
    assert DENSE / size > 20
    report = compressed.report
    assert report.compression_ratio == DENSE / report.file_bytes
    assert report.course_ratio > report.compression_ratio
    assert report.outputs_identical

    network = create_model("resnet20", seed=1)
    network.load_state_dict(compressed.state_dict())
    loaded = load(path, create_model("resnet20"))
    images = subset.test.images
    assert torch.equal(predict(loaded, images), predict(network, images))
    assert report.score_after == accuracy(loaded, subset.test)

    coded = {n: t for n, t in compressed.items() if isinstance(t, CompressedTensor)}
    weights = [loaded.get_parameter(name) for name in coded]
    total = sum(w.numel() for w in weights)
    assert total == 269_722 - 2 * 688 - 10  # all but batch normalization and the bias
    assert sum(int((w == 0).sum()) for w in weights) == round(0.8 * total)
    assert all(w.unique().numel() <= 2**3 + 1 for w in weights)

    # Thirty steps recover most of the accuracy; a file of noise would score 0.1.
    assert report.score_before > 0.85
    assert report.score_after > 0.6


def test_compress_keeps_the_accuracy_of_pretrained_weights(tmp_path, cifar10, subset):
    once = TrainingConfig(epochs=0)
    recipe = Recipe(
        pruning=PruningConfig(sparsity=0.3),
        retraining=once,
        quantization=QuantizationConfig(bits=5),
        fine_tuning=once,
    )
    compressed = compress(load_pretrained("resnet20"), recipe, **task(subset))
    size = save(compressed, tmp_path / "resnet20.fly")
    test = Split(cifar10.test.images[:500], cifar10.test.labels[:500])
    assert DENSE / size > 6
    assert accuracy(load_pretrained("resnet20"), test) > 0.9
    assert accuracy(load(tmp_path / "resnet20.fly", create_model("resnet20")), test) > 0.8
