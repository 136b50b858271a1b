"""ImageNet's official archives, read in place, are the same data set as the folder to which they are unpacked."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from app.base import progress
from app.base.errors import CorruptImage
from app.base.phase import advances
from app.data.sources import open_source
from app.hosts import probe
from app.storage import index as module
from app.storage.files import Files
from app.storage.index import read_index
from app.storage.listing import Index
from tests.support.caches import cached_index, damaged, make_old
from tests.support.imagenet_archives import (
    CLASSES,
    DEVKIT,
    TRAIN,
    TRUTH,
    VALIDATION,
    devkit,
    make_archives,
    tar_of,
    training_images,
    validation_images,
)
from tests.support.in_process import failure_of, run_command, succeed
from tests.support.reads import reads

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    folder = make_archives(tmp_path / "archives")
    make_old(folder)
    return folder


def unpacked(folder: Path) -> Path:
    """Write the images of the archives into `folder`, as prepare-imagenet does, and return it."""
    wnids = list(CLASSES)
    files = {f"train/{w}/{name}": image for w, images in training_images().items() for name, image in images.items()}
    for (name, image), label in zip(validation_images().items(), TRUTH, strict=True):
        files[f"val/{wnids[label - 1]}/{name}"] = image
    for name, image in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(image)
    return folder


def contents(files: Files) -> list[bytes]:
    return [files.read(place) for place in range(len(files))]


def assert_same(found: Index, expected: Index) -> None:
    assert (found.classes, found.fingerprint, found.left_out) == (expected.classes, expected.fingerprint, (0, ()))
    for a, b in ((found.train, expected.train), (found.validation, expected.validation)):
        assert np.array_equal(a.names, b.names) and np.array_equal(a.labels, b.labels)
        assert a.labels.dtype == b.labels.dtype
        assert contents(a) == contents(b)


def test_the_archives_are_the_folder_that_they_unpack_to(archives: Path, tmp_path: Path) -> None:
    index = read_index(str(archives))
    assert index.classes == tuple(CLASSES) and (len(index.train), len(index.validation)) == (12, 7)
    assert_same(index, read_index(str(unpacked(tmp_path / "folder"))))


def test_a_list_counts_as_progress_and_shows_it(
    archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each listed file and folder counts as progress, so `--stall-timeout` ends no run that makes a long list."""
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    before = advances()
    read_index(str(archives))
    # Progress advances once for each of 19 images and 3 classes, and once for the size of each image.
    assert advances() - before >= 12 + 7 + 3 + 19
    assert "listing the images: 12 of 12 images, " in capsys.readouterr().err
    folder, before = unpacked(tmp_path / "folder"), advances()
    read_index(str(folder))
    assert advances() - before >= 12 + 7 + 6 + 19
    assert "listing the images: 19 found, " in capsys.readouterr().err
    before = advances()
    read_index(str(archives))
    assert advances() - before >= 3 + 19  # once for each archive, and once for the size of each image


def test_a_second_start_reads_the_cache(archives: Path) -> None:
    with reads() as opened:
        first = read_index(str(archives))
    assert str(archives / DEVKIT) in opened
    with reads() as opened:
        second = read_index(str(archives) + "/")
    # The other archives are opened, because the fingerprint reads some images.
    assert str(archives / DEVKIT) not in opened
    assert_same(second, first)


def test_archives_that_were_written_just_now_are_not_cached(archives: Path, cache: Path) -> None:
    (archives / TRAIN).touch()
    read_index(str(archives))
    assert not list(cache.rglob("*.npz"))


@pytest.mark.parametrize("changed", [TRAIN, VALIDATION, DEVKIT])
def test_a_changed_archive_is_listed_again(changed: str, archives: Path) -> None:
    first = read_index(str(archives))
    before = contents(first.train), contents(first.validation)
    if changed == TRAIN:
        images = training_images()
        images["n01443537"] = dict(reversed(images["n01443537"].items()))  # the same images in another order
        (archives / TRAIN).write_bytes(tar_of({f"{wnid}.tar": tar_of(files) for wnid, files in images.items()}))
    elif changed == VALIDATION:
        (archives / VALIDATION).write_bytes(tar_of(dict(reversed(validation_images().items()))))
    else:
        (archives / DEVKIT).write_bytes(devkit("".join(f"{label}\n" for label in reversed(TRUTH))))
    second = read_index(str(archives))
    assert contents(second.train) == before[0]
    assert (second.fingerprint == first.fingerprint) == (changed != DEVKIT)
    assert (contents(second.validation) == before[1]) == (changed != DEVKIT)


def test_a_damaged_cache_is_made_again(archives: Path, cache: Path) -> None:
    """The cache has changed bytes, or valid arrays with impossible positions, sizes or file states."""
    first = read_index(str(archives))
    file, whole, arrays = cached_index(cache)
    generator = np.random.default_rng(0)
    for case in range(60):
        if case < 40:
            file.write_bytes(damaged(whole, generator))
        else:
            name = ("train_offsets", "train_sizes", "train_numbers", "val_offsets", "states")[case % 5]
            wrong = (arrays[name] * 0 + 2**30, -1 - arrays[name], arrays[name][:-1], arrays[name] * 1.0)[case // 5 % 4]
            np.savez(file, **arrays | {name: wrong})
        assert_same(read_index(str(archives)), first)


def test_processes_that_start_together_make_one_list(
    archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first process makes the list. The others wait for it and read the list from the cache."""
    real = module.make_list

    def slow(root: str) -> object:
        with (tmp_path / "lists").open("a") as file:
            file.write("begun\n")
        time.sleep(0.3)
        return real(root)

    monkeypatch.setattr(module, "make_list", slow)
    children = [os.fork() for _ in range(3)]
    if 0 in children:
        try:
            os._exit(len(read_index(str(archives)).train))
        finally:
            os._exit(1)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [12, 12, 12]
    assert (tmp_path / "lists").read_text() == "begun\n"


def test_files_go_to_other_processes_without_their_descriptors(archives: Path) -> None:
    train = read_index(str(archives)).train
    expected = contents(train)
    copy = pickle.loads(pickle.dumps(train))
    assert copy.archives._open == {} and train.archives._open
    assert contents(copy) == expected
    assert contents(train.take(slice(3, 5))) == expected[3:5]
    assert contents(train.take(np.array([True, False] * 6))) == expected[::2]


def test_an_archive_that_became_shorter_is_named(archives: Path) -> None:
    source = open_source(str(archives), image_size=32, augmentation="none")
    os.truncate(archives / TRAIN, 1000)
    with pytest.raises(CorruptImage, match=rf"image {archives / TRAIN}: n01440764/.*the archive has become shorter"):
        source.train.__getitems__([(0, 0)])


def test_a_folder_next_to_the_archives_is_preferred(archives: Path) -> None:
    unpacked(archives)
    assert read_index(str(archives)).train.place(0).startswith(f"{archives}/train/n01440764/")


def test_check_data_and_the_skip_list(archives: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = training_images()
    name = list(images["n02084071"])[1]
    images["n02084071"][name] = images["n02084071"][name][:-200]
    (archives / TRAIN).write_bytes(tar_of({f"{wnid}.tar": tar_of(files) for wnid, files in images.items()}))
    skip_list = tmp_path / "skip.txt"
    line = failure_of("check-data", archives, "--skip-list", skip_list, "--json", "--processes", 1, code=1)
    assert "1 finding would stop a training run" in line
    report = json.loads(capsys.readouterr().out)
    assert report["images"] == {"train": 12, "val": 7}
    [fatal] = [finding for finding in report["findings"] if finding["fatal"]]
    assert (fatal["kind"], fatal["path"]) == ("truncated", f"train/n02084071/{name}")
    assert skip_list.read_text().splitlines()[1:] == [f"train/n02084071/{name}"]
    source = open_source(str(archives), image_size=32, skip_list=str(skip_list))
    assert (source.skipped, len(source.train)) == (1, 11)
    source.train.__getitems__([(0, place) for place in range(11)])
    with pytest.raises(CorruptImage, match=name):
        open_source(str(archives), image_size=32).train.__getitems__([(0, place) for place in range(12)])
    shutil.rmtree(tmp_path / "cache")
    assert run_command("check-data", archives)[0] == 1


def test_doctor_compares_the_archives_of_hosts(archives: Path, tmp_path: Path) -> None:
    """doctor compares digests of the data of hosts. A digest is computed from the names and sizes of the files."""
    facts = probe._data(str(archives))
    assert (facts["files"], facts["error"]) == (3, "")
    shutil.copytree(archives, tmp_path / "copy")
    assert probe._data(str(tmp_path / "copy")) == facts
    os.truncate(tmp_path / "copy" / TRAIN, 1000)
    assert probe._data(str(tmp_path / "copy"))["digest"] != facts["digest"]


def test_plan_reads_the_archives(archives: Path, capsys: pytest.CaptureFixture[str]) -> None:
    succeed("plan", "--data", archives, "--minibatch", 4, "--per-worker", 2)
    assert "12 training and 7 validation images" in " ".join(capsys.readouterr().out.split())
