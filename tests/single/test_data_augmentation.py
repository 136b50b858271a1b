"""Augmentations, grey images, and normalisation by the mean of the data, compared with numpy and Pillow."""

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from app.base.errors import UserError
from app.data.sources import IMAGENET_MEAN, Source, open_source
from app.data.splits import ArraySplit, Split, StoredSplit
from app.recipe.config import Config
from app.storage import index
from app.trained.trained import load
from app.training.normalisation import Moments, count_values, moments_of, moments_of_counts
from app.training.run import open_run
from app.world import world
from tests.support.in_process import failure_of, succeed

SIDE = 32
IMAGES = 20  # the number of training images
EPOCHS = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder of coloured PNG images in two classes. They have the size that the network sees."""
    place, generator = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", IMAGES // 2), ("val", 4)):
        for name in "ab":
            (place / split / name).mkdir(parents=True)
            for number in range(count):
                # No pixel is 0, so that the black borders of moved images can be recognised.
                pixels = generator.integers(1, 256, (SIDE, SIDE, 3), np.uint8)
                Image.fromarray(pixels).save(place / split / name / f"{number:02}.png")
    return place


def opened(folder: Path | str, **options: Any) -> Source:
    size = {"image_size": SIDE, "resize": SIDE} if isinstance(folder, Path) else {}
    return open_source(str(folder), **size, **options)


@pytest.fixture
def alone() -> Iterator[world.World]:
    yield world.start(device="cpu")
    world.stop()


def numpys(folder: Path) -> Moments:
    """Return the mean and the standard deviation of each colour over all training images."""
    images = np.stack([np.asarray(Image.open(path)) for path in folder.glob("train/*/*.png")]) / 255
    return tuple(images.mean((0, 1, 2))), tuple(images.std((0, 1, 2)))


def drawn(split: Split) -> NDArray[np.uint8]:
    """Return the augmented image number 3 of EPOCHS epochs."""
    return split.__getitems__([(epoch, 3) for epoch in range(EPOCHS)])[0].numpy()


def ways_to(image: NDArray[np.uint8], most: int) -> dict[tuple[int, int, bool], bytes]:
    """Return all images that shifts by up to `most` pixels and mirroring make of one image.

    The keys are (down, right, mirrored). The borders are filled with zeros.
    """
    wide = np.zeros((image.shape[0] + 2 * most, image.shape[1] + 2 * most, image.shape[2]), np.uint8)
    wide[most : most + image.shape[0], most : most + image.shape[1]] = image
    found = {}
    for y in range(2 * most + 1):
        for x in range(2 * most + 1):
            window = wide[y : y + image.shape[0], x : x + image.shape[1]]
            found[y, x, False], found[y, x, True] = window.tobytes(), window[:, ::-1].tobytes()
    return found


@pytest.mark.parametrize("data", ["folder", "digits"])
@pytest.mark.parametrize(("name", "most", "mirrors"), [("crop-pad", 8, True), ("shift", 8, False), ("flip", 0, True)])
def test_images_are_moved_and_mirrored(data: str, name: str, most: int, mirrors: bool, folder: Path) -> None:
    """An image moves by at most 1 / `most` of its side. This is 4 of 32 pixels, or 1 of 8 pixels."""
    where = folder if data == "folder" else data
    plain = opened(where, augmentation="none").train
    image = plain.__getitems__([(0, 3)])[0][0].numpy()
    most = len(image) // most if most else 0
    ways = {pixels: way for way, pixels in ways_to(image, most).items()}
    used = [ways[pixels.tobytes()] for pixels in drawn(opened(where, augmentation=name, seed=1).train)]
    assert {mirrored for *_, mirrored in used} == ({False, True} if mirrors else {False})
    for axis in (0, 1):
        places = {way[axis] for way in used}
        assert (min(places), max(places)) == (0, 2 * most)
    again = drawn(opened(where, augmentation=name, seed=1).train)
    assert [ways[pixels.tobytes()] for pixels in again] == used


def test_none_leaves_images_as_they_are(folder: Path) -> None:
    split = opened(folder, augmentation="none").train
    image = np.asarray(Image.open(folder / "train/a/03.png"))
    assert all(np.array_equal(pixels, image) for pixels in drawn(split))
    assert isinstance(opened("digits", augmentation="none").train, ArraySplit)


def test_grey_is_pillows(folder: Path) -> None:
    source = opened(folder, augmentation="none", grey=True)
    pixels, _ = source.validation.__getitems__([(0, 0)])
    expected = np.asarray(Image.open(folder / "val/a/00.png").convert("L"))
    assert np.array_equal(pixels[0, :, :, 0].numpy(), expected)
    assert source.channels == 1 and source.mean == pytest.approx([sum(IMAGENET_MEAN) / 3])
    assert drawn(opened(folder, grey=True).train).shape == (EPOCHS, SIDE, SIDE, 1)
    with pytest.raises(UserError, match="--grey is for images in a folder: leave it out with --data digits"):
        open_source("digits", grey=True)


def test_the_moments_are_numpys_however_they_are_divided(folder: Path) -> None:
    split = opened(folder).train
    assert isinstance(split, StoredSplit)
    whole = count_values(split, 0, 1)
    assert np.array_equal(sum(count_values(split, rank, 3) for rank in range(3)), whole)
    mean, std = moments_of_counts(whole.tolist())
    assert mean == pytest.approx(numpys(folder)[0], abs=1e-12)
    assert std == pytest.approx(numpys(folder)[1], abs=1e-12)
    assert moments_of_counts([[0, 5] + [0] * 254]) == ((1 / 255,), (1 / 255,))  # no division by 0 for a single colour


@pytest.mark.usefixtures("cache")
def test_a_run_keeps_its_moments(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The mean and standard deviation are measured once, stored in the checkpoint, and used after training."""
    options = ["--data", folder, "--image-size", SIDE, "--resize", SIDE, "--model", "resnet8", "--width", 4]
    options += ["--minibatch", 4, "--per-worker", 4, "--epochs", 1, "--normalise", "data", "--grey", "--device", "cpu"]
    succeed("train", *options, "--augmentation", "flip", "--output", tmp_path / "run")
    said = capsys.readouterr().out
    assert "default: --data" in said and "the values of paper-256" in said and "audit:" not in said
    images = [np.asarray(Image.open(path).convert("L")) / 255 for path in folder.glob("train/*/*.png")]
    trained = load(str(tmp_path / "run"))
    assert trained.mean == pytest.approx([np.mean(images)], abs=1e-12)
    assert trained.std == pytest.approx([np.std(images)], abs=1e-12)
    assert trained.network.conv1.weight.shape[1] == 1  # type: ignore[union-attr,index]
    succeed("evaluate", tmp_path / "run", "--device", "cpu")
    errors = torch.load(tmp_path / "run/checkpoints/last.pt", weights_only=True)["errors"]
    assert f"top-1 error {errors[-1][0]:.2%}" in capsys.readouterr().out
    (kept,) = tmp_path.glob("cache/large*/*.json")
    kept.write_text('{"mean": [0.25], "std": [0.5]}')
    succeed("train", *options, "--output", tmp_path / "again")
    assert load(str(tmp_path / "again")).mean == (0.25,)


def test_the_moments_of_a_replaced_image_are_measured_with_and_without_a_cache(
    folder: Path, tmp_path: Path, cache: Path, alone: world.World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "SAMPLE", 4)  # the fingerprint contains the last bytes of every fifth image
    data = shutil.copytree(folder, tmp_path / "data")
    before = moments_of(opened(data), alone)
    white, image = io.BytesIO(), data / "train/a/01.png"
    Image.new("RGB", (SIDE, SIDE), "white").save(white, "PNG")
    image.write_bytes(white.getvalue().ljust(image.stat().st_size, b"\0"))  # the size stays the same
    with_cache = moments_of(opened(data), alone)
    shutil.rmtree(cache)
    assert moments_of(opened(data), alone) == with_cache != before
    assert with_cache[0] == pytest.approx(numpys(data)[0], abs=1e-12)


@pytest.mark.usefixtures("cache")
def test_all_sessions_of_a_run_have_the_same_moments(folder: Path, tmp_path: Path, alone: world.World) -> None:
    data = shutil.copytree(folder, tmp_path / "data")
    config = Config(data=str(data), image_size=SIDE, resize=SIDE, normalise="data", minibatch=4, per_worker=4)
    first = open_run(config, alone)
    Image.new("RGB", (SIDE, SIDE), "white").save(data / "train/a/01.png")
    second = open_run(config, alone, source=first.source)
    assert (second.source.mean, second.source.std) == (first.source.mean, first.source.std)
    assert open_run(config, alone).source.mean != first.source.mean


def test_moments_in_a_damaged_cache_are_measured_again(folder: Path, cache: Path, alone: world.World) -> None:
    expected = moments_of(opened(folder), alone)
    assert expected[0] == pytest.approx(numpys(folder)[0], abs=1e-12)
    (kept,) = cache.glob("*/*.json")
    whole = kept.read_bytes()
    three = b'"std": [0.5, 0.5, 0.5]'
    damages = [
        b"", b"\xff", b"[]", b"[" * 100_000, whole[:-3],
        b'{"mean": [2, 2, 2], %s}' % three, b'{"mean": [0.5, 0.5, 0.5], "std": [0, 0, 0]}',
        b'{"mean": [0.5], %s}' % three, b'{"mean": [NaN, 0.5, 0.5], %s}' % three,
        b'{"mean": ["x", 0.5, 0.5], %s}' % three, b'{"mean": [1%s, 0, 0], %s}' % (b"0" * 400, three),
    ]  # fmt: skip
    for damage in damages:
        kept.write_bytes(damage)
        assert moments_of(opened(folder), alone) == expected, damage[:50]
        assert kept.read_bytes() == whole


def test_an_unknown_augmentation_is_refused() -> None:
    assert "did you mean crop-pad?" in failure_of("train", "--augmentation", "croppad")
    everything = "give one of paper, crop-pad, shift, flip, none"
    assert failure_of("train", "--augmentation", "mixup") == f"--augmentation is mixup: {everything}"
