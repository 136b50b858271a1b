"""The images of `digits` are scikit-learn's, and those of `cluttered-digits` are transformed as by Pillow.

The pixels of both data sets must also have a known hash.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from app.base.errors import UserError
from app.data import digits
from app.data.draws import uniform
from app.data.sources import Source, open_source


def opened(data: str, **changes: object) -> Source:
    options: dict[str, object] = {
        "image_size": 0,
        "resize": 256,
        "augmentation": "paper",
        "seed": 0,
        "synthetic_images": 1000,
        "synthetic_classes": 10,
    }
    return open_source(data, **(options | changes))  # type: ignore[arg-type]


def batch(source: Source, split: str, items: list[tuple[int, int]]) -> NDArray[np.uint8]:
    images, labels = getattr(source, split).__getitems__(items)
    assert images.is_contiguous() and str(images.dtype) == "torch.uint8" and str(labels.dtype) == "torch.int64"
    assert labels.tolist() == [getattr(source, split).labels[index] for _, index in items]
    result: NDArray[np.uint8] = images.numpy()
    return result


def test_digits_are_scikit_learn_s_each_on_one_side() -> None:
    train, validation = digits.digits()
    assert train.images.shape == (1077, 8, 8, 1) and validation.images.shape == (720, 8, 8, 1)
    assert train.images.dtype == np.uint8 and train.labels.dtype == np.int64
    assert np.bincount(validation.labels).tolist() == [72] * 10
    assert np.bincount(train.labels).tolist() == [106, 110, 105, 111, 109, 110, 109, 107, 102, 108]
    reference = load_digits()
    expected = sorted(
        (int(label), np.rint(image / 16 * 255).astype(np.uint8).tobytes())
        for image, label in zip(reference.images, reference.target, strict=True)
    )
    ours = [(int(label), image.tobytes()) for part in (train, validation) for image, label in zip(*part, strict=True)]
    assert sorted(ours) == expected
    assert not {image.tobytes() for image in train.images} & {image.tobytes() for image in validation.images}


def test_split_and_composition_are_the_same_on_every_machine() -> None:
    expected = {"digits": "bef1ecdb28e8dc7f", "cluttered-digits": "c55b4f89eb2c4fe2"}
    for seed in (0, 1):
        for data, fingerprint in expected.items():
            assert opened(data, seed=seed).fingerprint == fingerprint


def test_cluttered_digits_have_the_stated_numbers() -> None:
    train, validation = digits.cluttered_digits()
    assert train.images.shape == (16_384, 20, 20, 1) and validation.images.shape == (4_000, 20, 20, 1)
    assert train.images.dtype == np.uint8 and train.labels.dtype == np.int64
    # The scans of a class are used in turn, so each class has about 400 of the 4,000 images.
    assert np.bincount(validation.labels).min() >= 390
    assert np.bincount(train.labels).min() >= 16_384 * 138 // 1437 - 15


def test_each_side_of_the_split_shows_its_own_digits_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training images contain only training scans, and validation images only validation scans.

    The test gives all scans of a split the same grey value, which differs between the splits.
    """
    train, validation = digits.digits()
    marked = (
        digits.Images(np.full_like(train.images, 200), train.labels),
        digits.Images(np.full_like(validation.images, 100), validation.labels),
    )
    monkeypatch.setattr(digits, "digits", lambda validation_per_class: marked)
    monkeypatch.setattr(digits, "NOISE", 0.0)
    brightest = [part.images.max(axis=(1, 2, 3)) for part in digits.cluttered_digits()]
    assert [np.unique(side).tolist() for side in brightest] == [[200], [100]]


def composed(scans: digits.Images, count: int) -> NDArray[np.uint8]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "NOISE", 0.0)
        return digits._compose(scans, count, 1).images


def test_a_drawn_digit_is_pillow_s_affine_transform() -> None:
    """Image i shows digit i, transformed as Pillow transforms it with the same random scale, angle and position.

    Noise and the fragments of other digits are switched off."""
    train, _ = digits.digits(digits.CLUTTERED_PER_CLASS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "FRAGMENTS", 0)
        ours = composed(train, 1500)
    for i in (0, 1, 700, 1436, 1437, 1499):
        down, right, scale, turn = uniform(1, 0, [i], 4)[0].tolist()
        angle = 2 * math.atan(digits.TURN * (2 * turn - 1))
        zoom = 1 + 0.75 * scale
        row, column = 9.5 + 6 * (down - 0.5), 9.5 + 6 * (right - 0.5)
        c, s = math.cos(angle) / zoom, math.sin(angle) / zoom
        # In Pillow the centre of a pixel is at .5. So the centre of the padded scan is at 5.
        x0, y0 = column + 0.5, row + 0.5
        matrix = (c, s, 5 - c * x0 - s * y0, -s, c, 5 + s * x0 - c * y0)
        scan = Image.fromarray(np.pad(train.images[i % 1437, :, :, 0], 1).astype(np.float32))
        reference = scan.transform((20, 20), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
        assert np.abs(ours[i, :, :, 0] - np.asarray(reference)).max() <= 0.51
        assert np.asarray(reference).max() > 150


def test_noise_has_the_stated_deviation() -> None:
    scans = digits.Images(np.full((50, 8, 8, 1), 128, np.uint8), np.zeros(50, np.int64))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "FRAGMENTS", 0)
        noise = (digits._compose(scans, 2000, 1).images - composed(scans, 2000).astype(float))[:, 9:11, 9:11] / 255
    assert abs(noise.mean()) < 0.005 and abs(noise.std() - 0.15) < 0.003


@pytest.mark.parametrize("data", ["digits", "cluttered-digits"])
def test_training_digits_shift_by_a_pixel_at_most_and_never_flip(data: str) -> None:
    source, plain = opened(data), opened(data, augmentation="none")
    items = [(epoch, index) for epoch in range(30) for index in range(0, 1050, 50)]
    ours = batch(source, "train", items)
    reference = batch(plain, "train", items)
    size = source.image_size
    padded = np.pad(reference, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = [padded[:, y : y + size, x : x + size] for y in range(3) for x in range(3)]
    matches = np.array([(ours == window).all(axis=(1, 2, 3)) for window in windows])
    assert (matches.sum(axis=0) == 1).all()
    assert np.abs(matches.mean(axis=1) - 1 / 9).max() < 0.04


def test_augmentation_is_of_seed_epoch_and_index_alone() -> None:
    source, again, other = opened("digits"), opened("digits"), opened("digits", seed=1)
    items = [(epoch, index) for epoch in (0, 5) for index in range(100)]
    images = batch(source, "train", items)
    alone = np.concatenate([batch(again, "train", [item]) for item in reversed(items)])[::-1]
    assert np.array_equal(images, alone)
    assert (batch(other, "train", items) != images).any()
    assert (images[:100] != images[100:]).any()


@pytest.mark.parametrize("data", ["digits", "cluttered-digits"])
def test_validation_is_the_same_in_every_epoch(data: str) -> None:
    source = opened(data)
    assert np.array_equal(batch(source, "validation", [(0, 3), (0, 4)]), batch(source, "validation", [(9, 3), (2, 4)]))


@pytest.mark.parametrize("data", ["digits", "cluttered-digits"])
def test_mean_and_deviation_normalise_the_training_images(data: str) -> None:
    source = opened(data, augmentation="none")
    images = batch(source, "train", [(0, index) for index in range(len(source.train))]) / 255.0
    normalised = (images - source.mean[0]) / source.std[0]
    assert abs(normalised.mean()) < 1e-9 and abs(normalised.std() - 1) < 1e-9
    assert (source.channels, len(source.classes)) == (1, 10)


def test_digits_of_another_size_are_refused() -> None:
    assert opened("digits", image_size=8).image_size == 8
    with pytest.raises(UserError, match="the images of digits are 8 x 8: leave --image-size out, or give 8"):
        opened("digits", image_size=224)


def test_synthetic_images_are_noise_and_the_same_each_time() -> None:
    source, again = (opened("synthetic", image_size=33, synthetic_images=1000, synthetic_classes=7) for _ in range(2))
    assert (len(source.train), len(source.validation), len(source.classes)) == (1000, 40, 7)
    items = [(0, index) for index in range(1000)]
    images = batch(source, "train", items)
    assert images.shape == (1000, 33, 33, 3)
    assert np.array_equal(images, batch(again, "train", [(4, index) for _, index in items]))
    assert len({image.tobytes() for image in images}) == 1000
    assert abs(images.mean() / 255 - 0.5) < 0.01 and abs(images.std() / 255 - source.std[0]) < 0.01
    assert np.bincount(source.train.labels).max() == 143
    assert opened("synthetic").image_size == 224
    assert source.fingerprint == again.fingerprint != opened("synthetic", image_size=33).fingerprint
