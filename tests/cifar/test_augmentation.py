"""Augmented batches: pixels by hand, draws, sizes and order."""

import hashlib

import pytest
import torch
from torch.nn import functional as F

from flyweight.cifar import (
    NATIVE_SIZES,
    PROGRESSIVE_SIZES,
    AugmentedImages,
    Split,
    calibration_batches,
    normalize,
)
from flyweight.cifar.augmentation import alternating_crops, augment
from flyweight.errors import DataError


def images(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return Split(pixels, torch.arange(count))


def test_normalize_by_hand():
    black = normalize(torch.zeros(1, 3, 1, 1, dtype=torch.uint8)).flatten()
    expected = torch.tensor([-0.49139968 / 0.24703223, -0.48215841 / 0.24348513])
    torch.testing.assert_close(black[:2], expected)


def test_augment_crops_and_flips_each_image_alone():
    batch = images(40).images
    result = augment(batch, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    top = torch.randint(0, 9, (40,), generator=generator)
    left = torch.randint(0, 9, (40,), generator=generator)
    flip = torch.randint(0, 2, (40,), generator=generator, dtype=torch.bool)
    padded = F.pad(batch, (4, 4, 4, 4))
    assert 0 < flip.sum() < 40
    for i in range(40):
        crop = padded[i, :, top[i] : top[i] + 32, left[i] : left[i] + 32]
        assert torch.equal(result[i], crop.flip(-1) if flip[i] else crop)


def test_alternating_crops_are_parts_of_the_image():
    image = torch.arange(32 * 32).view(1, 1, 32, 32).expand(2, 3, 32, 32)
    flips = torch.tensor([False, True])
    crop, mirrored = alternating_crops(image, flips, 24, torch.Generator().manual_seed(1))
    top, left = divmod(int(crop[0, 0, 0]), 32)
    assert 0 <= top <= 8
    assert 0 <= left <= 8
    assert torch.equal(crop[0], image[0, 0, top : top + 24, left : left + 24].float())
    assert bool((mirrored.diff(dim=-1) == -1).all())
    whole = alternating_crops(image, ~flips, 32, torch.Generator().manual_seed(2))
    assert whole.shape == (2, 3, 32, 32)
    assert set(whole[1].unique().tolist()) <= set(map(float, range(1024)))


def test_augmented_images_show_each_image_once_in_whole_batches():
    data = AugmentedImages(images(50), batch_size=16)
    seen = [labels for _, labels in data]
    assert [len(labels) for labels in seen] == [16, 16, 16]
    assert len(data) == 3
    assert len(torch.cat(seen).unique()) == 48


def test_augmented_images_give_one_batch_of_a_small_split():
    data = AugmentedImages(images(50), batch_size=500, image_sizes=((20, 1.0),))
    ((batch, labels),) = data
    assert len(data) == 1
    assert batch.shape == (50, 3, 20, 20)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert len(labels.unique()) == 50


def test_augmented_images_follow_seed_and_epoch():
    def first(seed=0, epoch=0, run=0):
        data = AugmentedImages(images(20), batch_size=20, seed=seed)
        data.set_epoch(epoch)
        data.set_seed(run)
        return next(iter(data))[0]

    assert torch.equal(first(), first())
    assert torch.equal(first(seed=3), first(seed=1, run=2))
    for other in ({"seed": 1}, {"epoch": 1}, {"run": 1}):
        assert not torch.equal(first(), first(**other))


def test_augmented_images_alternate_flips_of_every_image():
    split = images(30)
    firsts = []
    for epoch in range(3):
        data = AugmentedImages(split, augmentation="alternating", seed=4)
        data.set_epoch(epoch)
        firsts.append(data._flips(4))
    assert torch.equal(firsts[0], ~firsts[1])
    assert torch.equal(firsts[0], firsts[2])
    assert 0 < firsts[0].sum() < 30


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        (PROGRESSIVE_SIZES, [16] * 5 + [20] * 4 + [24] * 4 + [28] * 3 + [32] * 4),
        (NATIVE_SIZES, [24] * 6 + [28] * 4 + [32] * 10),
    ],
)
def test_augmented_images_grow_over_the_epochs(sizes, expected):
    data = AugmentedImages(images(1), image_sizes=sizes, epochs=20)
    found = []
    for epoch in range(20):
        data.set_epoch(epoch)
        found.append(data.image_size)
    assert found == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"image_sizes": ((32, 1.0),)}, "d02f0627c60b429f"),
        (
            {"augmentation": "alternating", "image_sizes": NATIVE_SIZES, "epochs": 4},
            "7e34b527407f6986",
        ),
    ],
)
def test_augmented_images_are_pinned(settings, expected):
    """Published results depend on these draws."""
    data = AugmentedImages(images(40), batch_size=16, seed=7, **settings)
    digest = hashlib.sha256()
    for epoch in range(3):
        data.set_epoch(epoch)
        for batch, labels in data:
            pixels = (batch[:, 0].contiguous() * 1000).round().to(torch.int32)
            digest.update(pixels.numpy().tobytes())
            digest.update(labels.numpy().tobytes())
    assert digest.hexdigest()[:16] == expected


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"augmentation": "none"}, "augmentation 'none' is unknown"),
        ({"image_sizes": ((64, 1.0),)}, "image_sizes is"),
        ({"image_sizes": ((32, 0.5),)}, "image_sizes is"),
        ({"image_sizes": ()}, "image_sizes is"),
        ({"image_sizes": PROGRESSIVE_SIZES}, "give epochs="),
    ],
)
def test_augmented_images_refuse_impossible_settings(settings, said):
    with pytest.raises(DataError, match=said):
        AugmentedImages(images(4), **settings)


def test_augmented_images_refuse_an_empty_split():
    with pytest.raises(DataError, match="no images"):
        AugmentedImages(images(0))


def test_calibration_batches_are_not_augmented():
    split = images(100)
    batches = [*calibration_batches(split, 80, seed=2)]
    assert [len(labels) for _, labels in batches] == [64, 16]
    labels = torch.cat([labels for _, labels in batches])
    assert len(labels.unique()) == 80
    expected = normalize(split.images[labels])
    assert torch.equal(torch.cat([inputs for inputs, _ in batches]), expected)
    assert torch.equal(labels[:64], next(iter(calibration_batches(split, 64, seed=2)))[1])
