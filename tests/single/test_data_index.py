"""The index of a folder: it agrees with torchvision's ImageFolder, is kept in a cache, and refuses bad folders."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from torchvision.datasets import ImageFolder

from app.base.errors import CorruptImage, UserError
from app.data.images import read_image
from app.data.sources import open_source
from app.storage import index as storage
from app.storage.index import read_index
from tests.support.caches import cached_index, damaged, make_old
from tests.support.reads import reads

pytestmark = pytest.mark.usefixtures("cache")


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    touch(root, "train/b/2.jpg", "train/b/10.JPEG", "train/b/more/0.png", "train/b/more-/0.jpg", "train/a/x.PNG")
    touch(
        root,
        "train/Z/é.jpg",
        "train/b/.hidden.jpg",
        "train/b/notes.txt",
        "train/.cache/0.jpg",
        "train/list.jpg",
    )
    touch(root, "val/Z/1.jpg", "val/a/1.jpg", "val/b/1.jpg", "val/b/2.jpg")
    make_old(root)
    return root


def paths(root: Path, split: str) -> list[str]:
    index = read_index(str(root))
    files = {"train": index.train, "val": index.validation}[split]
    return [os.path.relpath(files.path(i), root) for i in range(len(files))]


def test_classes_images_and_order_are_torchvision_s(folder: Path) -> None:
    index = read_index(str(folder))
    # Hidden files and folders are not read. This is the only difference from torchvision.
    for hidden in ("train/b/.hidden.jpg", "train/.cache"):
        path = folder / hidden
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for split, files in (("train", index.train), ("val", index.validation)):
        reference = ImageFolder(str(folder / split))
        assert list(index.classes) == reference.classes == ["Z", "a", "b"]
        assert [files.path(i) for i in range(len(files))] == [path for path, _ in reference.samples]
        assert files.labels.tolist() == reference.targets
        assert files.labels.dtype == np.int64


def test_a_second_start_reads_the_cache(folder: Path) -> None:
    with reads() as listed:
        first = read_index(str(folder))
    assert str(folder / "train/b") in listed
    with reads() as listed:
        second = read_index(str(folder) + "/")
    assert not [path for path in listed if path.startswith(f"{folder}/train/") and Path(path).is_dir()]
    assert (second.classes, second.fingerprint) == (first.classes, first.fingerprint)
    assert np.array_equal(second.train.names, first.train.names)
    assert np.array_equal(second.train.labels, first.train.labels)


def test_added_removed_and_renamed_images_are_seen(folder: Path) -> None:
    seen = {read_index(str(folder)).fingerprint}

    def now(split: str) -> list[str]:
        found = paths(folder, split)
        make_old(folder)
        seen.add(read_index(str(folder)).fingerprint)
        return found

    touch(folder, "train/b/more/1.png")
    assert "train/b/more/1.png" in now("train")
    (folder / "train/b/2.jpg").unlink()
    assert "train/b/2.jpg" not in now("train")
    (folder / "val/a/1.jpg").rename(folder / "val/a/7.jpg")
    assert "val/a/7.jpg" in now("val")
    touch(folder, "train/new/1.jpg", "val/new/1.jpg")
    assert "val/new/1.jpg" in now("val")
    assert len(seen) == 5


def test_a_folder_changed_just_now_is_not_cached(folder: Path, cache: Path) -> None:
    touch(folder, "train/b/3.jpg")
    read_index(str(folder))
    assert not list(cache.rglob("*.npz"))


def crafted(arrays: dict[str, NDArray[Any]], number: int) -> dict[str, NDArray[Any]]:
    """Return the arrays of a cache with one of them replaced by an array of a wrong shape, type or content."""
    wrong = [np.zeros((2, 2), np.int64), np.array("text"), np.zeros(0), np.full(6, 9, np.int64), np.zeros(6)]
    names = sorted(name for name in arrays if name != "left_out")
    return arrays | {names[number % len(names)]: wrong[number // len(names) % len(wrong)]}


def test_a_damaged_cache_is_made_again(folder: Path, cache: Path) -> None:
    """The cache is truncated, has changed bytes, or has wrong arrays. Each start still finds the same images."""
    first = read_index(str(folder))
    file, whole, arrays = cached_index(cache)
    generator = np.random.default_rng(0)
    for case in range(150):
        if case < 5:
            file.write_bytes([b"", b"PK\x03\x04nonsense", whole[:-300], whole[300:], whole[:40]][case])
        elif case < 100:
            file.write_bytes(damaged(whole, generator))
        else:
            np.savez(file, **crafted(arrays, case))
        again = read_index(str(folder))
        assert (again.fingerprint, again.classes) == (first.fingerprint, first.classes), case
        assert again.train.names.tolist() == first.train.names.tolist(), case
        assert again.train.labels.tolist() == first.train.labels.tolist(), case


def test_an_image_replaced_under_its_name_is_noticed_with_and_without_a_cache(folder: Path, cache: Path) -> None:
    seen = {read_index(str(folder)).fingerprint}
    for content in (b"another", b"and yet another one", b"and not another one"):  # the last two have the same size
        (folder / "train/b/2.jpg").write_bytes(content)
        with_cache = read_index(str(folder)).fingerprint
        shutil.rmtree(cache)
        assert read_index(str(folder)).fingerprint == with_cache
        seen.add(with_cache)
    assert len(seen) == 4


def test_files_that_are_not_read_are_counted_with_and_without_a_cache(folder: Path) -> None:
    for _ in range(2):
        count, names = read_index(str(folder)).left_out
        assert (count, set(names)) == (2, {"train/b/notes.txt", "train/list.jpg"})
    touch(folder, "val/a/odd\x1b[1m.webp")
    assert "'val/a/odd\\x1b[1m.webp'" in read_index(str(folder)).left_out[1]


def test_no_place_for_a_cache_is_no_error(folder: Path, cache: Path) -> None:
    cache.write_text("a file where the directory should be")
    assert len(read_index(str(folder)).train) == 6


def test_fingerprint_is_of_names_and_sizes_wherever_the_folder_lies(folder: Path, tmp_path: Path) -> None:
    fingerprint = read_index(str(folder)).fingerprint
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert read_index(str(tmp_path / "elsewhere")).fingerprint == fingerprint
    shutil.copytree(folder, tmp_path / "changed")
    (tmp_path / "changed/train/b/2.jpg").write_bytes(b"longer than it was before")
    assert read_index(str(tmp_path / "changed")).fingerprint != fingerprint


def test_of_a_large_split_some_images_are_read_at_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fingerprint contains the last bytes of some images, SAMPLE of each split. No other image is read."""
    for split in ("train", "val"):
        for number in range(10):
            touch(tmp_path, f"{split}/a/{number}.jpg")
    monkeypatch.setattr(storage, "SAMPLE", 4)
    read_index(str(tmp_path))
    with reads() as opened:
        first = read_index(str(tmp_path)).fingerprint
    assert {Path(path).name for path in opened if path.endswith(".jpg")} == {"0.jpg", "3.jpg", "6.jpg", "9.jpg"}
    (tmp_path / "train/a/3.jpg").write_bytes(b"x" * (tmp_path / "train/a/3.jpg").stat().st_size)
    assert read_index(str(tmp_path)).fingerprint != first


def test_a_large_split_pickles_small(tmp_path: Path) -> None:
    for name in ("train/n01440764", "val/n01440764"):
        (tmp_path / "many" / name).mkdir(parents=True)
    for i in range(2_000):
        (tmp_path / f"many/train/n01440764/n01440764_{i + 10_000}.JPEG").touch()
    touch(tmp_path / "many", "val/n01440764/1.JPEG")
    source = open_source(str(tmp_path / "many"))
    assert len(pickle.dumps(source.train)) < 2_000 * 40 + 2_000  # a name has 31 bytes and a label has 8


# ---------------------------------------------------------------- bad folders


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        open_source(str(folder))
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
    return str(caught.value)


def test_no_such_folder(tmp_path: Path) -> None:
    assert refused(tmp_path / "gone") == f"no such data folder: {tmp_path / 'gone'}"


def test_a_misspelt_name_is_suggested(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert refused(Path("cluttered-digit")).endswith("did you mean cluttered-digits?")


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_missing_split(folder: Path, split: str) -> None:
    shutil.rmtree(folder / split)
    assert f"has no {split}/; expected train/CLASS/*.jpg and val/CLASS/*.jpg" in refused(folder)


def test_no_images(folder: Path) -> None:
    shutil.rmtree(folder / "train")
    touch(folder, "train/a/readme.txt")
    assert "no images in" in refused(folder)
    shutil.rmtree(folder / "train")
    touch(folder, "train/lies-flat.jpg")
    assert "no images in" in refused(folder)


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_empty_class(folder: Path, split: str) -> None:
    touch(folder, f"{split}/e/notes.txt")
    (folder / split / "f").mkdir()
    assert f"{split} has no images for e, f; add some or remove the folder" in refused(folder)


def test_classes_that_differ(folder: Path) -> None:
    for name in "uvwxy":
        touch(folder, f"train/{name}/1.jpg")
    touch(folder, "val/q/1.jpg")
    assert "val/ lacks u, v, w and 2 more and train/ lacks q" in refused(folder)


def test_a_link_that_leads_nowhere_is_listed_and_named_when_it_is_read(folder: Path) -> None:
    (folder / "train/a/link.jpg").symlink_to(folder / "gone.jpg")
    assert "train/a/link.jpg" in paths(folder, "train")
    with pytest.raises(CorruptImage, match=r"there is no image .*/train/a/link\.jpg"):
        read_image(str(folder / "train/a/link.jpg"), lambda width, height: (0, 0, width, height), 8)


def test_all_that_cannot_be_listed_is_counted(folder: Path) -> None:
    for name in ("train/a/1.jpg", "val/b/5.png"):
        os.mkfifo(folder / name)
    message = refused(folder)
    assert "train/a/1.jpg is not a regular file; remove it (check-data lists 1 more)" in message


def test_a_crop_larger_than_the_resized_image(folder: Path) -> None:
    with pytest.raises(UserError, match="--resize 200 is smaller than --image-size 224"):
        open_source(str(folder), image_size=224, resize=200)
