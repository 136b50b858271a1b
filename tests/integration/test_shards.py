""".tar shards: training reads every accepted form in place, refuses bad archives, and reads what `pack` writes."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.base.errors import UserError
from app.data.sources import open_source
from app.storage import index as storage
from app.storage.index import read_index
from tests.support.bad_folders import good_folder
from tests.support.caches import make_old
from tests.support.imagenet_archives import make_archives, picture, tar_of
from tests.support.in_process import failure_of, succeed

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder with 8 training and 4 validation images of the classes cat and dog."""
    return good_folder(tmp_path / "folder")


def images_of(folder: Path, split: str) -> dict[str, bytes]:
    """Return the images of a split as a dict from CLASS/NAME to content."""
    paths = sorted((folder / split).rglob("*.JPEG"))
    return {str(path.relative_to(folder / split)): path.read_bytes() for path in paths}


def write(root: Path, archives: dict[str, dict[str, bytes]]) -> Path:
    """Write the archives, and make them an hour old."""
    for name, files in archives.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(tar_of(files))
    make_old(root)
    return root


def facts(root: Path) -> tuple[object, ...]:
    """Return all properties of a data set: classes, fingerprint, left-out files, names, labels and contents."""
    index = read_index(str(root))
    splits = [
        (files.names.tolist(), files.labels.tolist(), [files.read(place) for place in range(len(files))])
        for files in (index.train, index.validation)
    ]
    return (index.classes, index.fingerprint, index.left_out, *splits)


def in_class_folders(train: dict[str, bytes], val: dict[str, bytes]) -> dict[str, dict[str, bytes]]:
    """Return two training archives and a validation archive. Their names show the split. Each has all classes."""
    return {
        "things-train-0.tar": dict(list(train.items())[::2]),
        "things-train-1.tar": dict(list(train.items())[1::2]),
        "things-val-0.tar": val,
    }


def in_folders_by_split(train: dict[str, bytes], val: dict[str, bytes]) -> dict[str, dict[str, bytes]]:
    return {"train/a.tar": train, "validation/a.tar": {f"./{name}": image for name, image in val.items()}}


def in_one_archive_each(train: dict[str, bytes], val: dict[str, bytes]) -> dict[str, dict[str, bytes]]:
    """Return archives as `tar cf x.tar train` makes them. Only the paths of their members show the split."""
    return {
        "0.tar": {f"train/{name}": image for name, image in train.items()},
        "1.tar": {f"./val/{name}": image for name, image in val.items()},
    }


def labelled(
    images: dict[str, bytes], label: Callable[[str], bytes], ending: str = "cls", flat: bool = True
) -> dict[str, bytes]:
    """Return the members of an archive in WebDataset's form: a label file follows each image.

    Args:
        images: The images by their CLASS/NAME.
        label: A function that returns the content of the label file for a class.
        ending: The ending of the label files.
        flat: Whether the key is CLASS-NAME, or else CLASS/NAME.
    """
    files = {}
    for name, image in images.items():
        key = name.replace("/", "-").removesuffix(".JPEG") if flat else name.removesuffix(".JPEG")
        files |= {f"{key}.JPEG": image, f"{key}.{ending}": label(name.split("/")[0])}
    return files


@pytest.mark.parametrize("make", [in_class_folders, in_folders_by_split, in_one_archive_each])
def test_class_folders_in_archives_are_the_same_data_set(make: Callable, folder: Path, tmp_path: Path) -> None:
    archives = make(images_of(folder, "train"), images_of(folder, "val"))
    assert facts(write(tmp_path / "shards", archives)) == facts(folder)


LABELS: dict[str, tuple[Callable[[str], bytes], str]] = {
    "numbers": (lambda name: b"%d" % ["cat", "dog"].index(name), "cls"),
    "numbers with line ends": (lambda name: b"0%d\n" % ["cat", "dog"].index(name), "cls"),
    "names": (lambda name: name.encode(), "cls"),
    "JSON number": (lambda name: b"%d" % ["cat", "dog"].index(name), "json"),
    "JSON field": (lambda name: b'{"width": 3, "label": %d}' % ["cat", "dog"].index(name), "json"),
    "JSON name": (lambda name: json.dumps({"cls": name}).encode(), "json"),
}


@pytest.mark.parametrize("kind", LABELS)
def test_webdataset_s_labels(kind: str, folder: Path, tmp_path: Path) -> None:
    """Classes come from the label files. The order, labels and contents are those of the folder."""
    label, ending = LABELS[kind]
    splits = {split: labelled(images_of(folder, split), label, ending) for split in ("train", "val")}
    root = write(tmp_path / "shards", {f"{split}-00.tar": files for split, files in splits.items()})
    classes, _, left_out, train, validation = facts(root)
    numbers = "name" not in kind.split()[-1]
    assert classes == (("0", "1") if numbers else ("cat", "dog")) and left_out == (0, ())
    _, _, _, expected_train, expected_validation = facts(folder)
    assert (train[1:], validation[1:]) == (expected_train[1:], expected_validation[1:])
    assert train[0][0] == (b"0/cat-0.JPEG" if numbers else b"cat/cat-0.JPEG")
    if numbers:  # classes.txt names the classes; the program notices when it is added and removed
        (root / "classes.txt").write_text("cat\ndog\n")
        assert facts(root)[0] == ("cat", "dog")
        (root / "classes.txt").unlink()
        assert facts(root)[0] == ("0", "1")


def test_classes_with_numbers_count_up(tmp_path: Path) -> None:
    files = {f"{number:03}.jpg": picture(number) for number in range(12)}
    files |= {f"{number:03}.cls": b"%d" % (11 - number) for number in range(12)}
    root = write(tmp_path / "shards", {"train.tar": files, "val.tar": files})
    index = read_index(str(root))
    assert index.classes == tuple(map(str, range(12)))
    assert index.train.read(0) == picture(11)  # the image with label 0


def test_changed_added_and_removed_archives_are_seen(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, val = images_of(folder, "train"), images_of(folder, "val")
    archives = in_class_folders(train, val)
    root = write(tmp_path / "shards", archives)
    first = facts(root)
    with monkeypatch.context() as patched:
        patched.setattr(storage, "make_list", None)  # without make_list, the list has to come from the cache
        read_index(str(root))
    write(root, {"train/more.tar": {"cat/new.jpg": picture(77)}})
    assert len(read_index(str(root)).train) == 9
    (root / "train/more.tar").unlink()
    assert facts(root) == first
    (root / "things-train-1.tar").write_bytes(tar_of(archives["things-train-1.tar"] | {"dog/new.jpg": picture(78)}))
    assert len(read_index(str(root)).train) == 9


def test_what_is_not_read_is_counted(folder: Path, tmp_path: Path) -> None:
    """Files that are no images, and images without a class, are counted. Archives named "test" are ignored."""
    train = images_of(folder, "train") | {"cat/notes.txt": b"-", "flat.jpg": picture(1), "cat/._0.JPEG": b"-"}
    root = write(tmp_path / "shards", {"train.tar": train, "val.tar": images_of(folder, "val")})
    (root / "test-00.tar").write_bytes(b"not looked at")
    (root / ".train-01.tar.tmp").write_bytes(b"not looked at")
    assert read_index(str(root)).left_out == (2, ("train.tar/cat/notes.txt", "train.tar/flat.jpg"))


def test_more_archives_than_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.storage.files.resource.getrlimit", lambda _: (8, 8))
    archives = {f"train/{number:02}.tar": {f"a/{number:02}.jpg": picture(number)} for number in range(20)}
    root = write(tmp_path / "shards", archives | {"val/0.tar": {"a/0.jpg": picture(99)}})
    train = read_index(str(root)).train
    for _ in range(2):
        assert [train.read(place) for place in range(20)] == [picture(number) for number in range(20)]
    assert len(train.archives._open) == 16  # type: ignore[attr-defined]


# ---------------------------------------------------------------- archives that are refused


def member(name: str, kind: bytes) -> bytes:
    """Return an archive with an image and then a member of the type `kind`, such as a link."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        entry = tarfile.TarInfo("a/0.jpg")
        entry.size = len(IMAGE)
        tar.addfile(entry, io.BytesIO(IMAGE))
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = kind, "/etc/passwd"
        tar.addfile(entry)
    return file.getvalue()


def negative(size: int) -> bytes:
    """Return an archive whose second member has this negative size, in GNU's base-256 form."""
    entry = tarfile.TarInfo("a/1.jpg")
    header = bytearray(entry.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = (256**12 + size).to_bytes(13, "big")[1:]
    header[148:156] = b"%06o\0 " % (256 + sum(header[:148]) + sum(header[156:]))
    return tar_of({"a/0.jpg": IMAGE})[:-BLOCKS_OF_END] + bytes(header) + bytes(1024)


def sparse() -> bytes:
    """Return an archive with a sparse file in GNU's old form. Its list of parts continues after the archive's end."""
    header = bytearray(tarfile.TarInfo("a/1.jpg").tobuf(tarfile.GNU_FORMAT))
    header[156:157], header[482:483] = b"S", b"\1"
    header[148:156] = b"%06o\0 " % (256 + sum(header[:148]) + sum(header[156:]))
    return bytes(header)


IMAGE = picture(5)
GOOD = {"a/0.jpg": IMAGE, "a/1.jpg": picture(6)}
BLOCKS_OF_END = len(tar_of({"a/0.jpg": IMAGE})) - 512 - -(-len(IMAGE) // 512) * 512
WHOLE = tar_of(GOOD)
SECOND = 512 + -(-len(IMAGE) // 512) * 512  # offset of the second member of an archive, in bytes
DAMAGED = WHOLE[:SECOND] + b"\xff" * 512 + WHOLE[SECOND + 512 :]

# A dict from the name of a case to its training archive and a regular expression for the error message.
BAD_ARCHIVES: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", "damaged or not a tar archive"),
    "a web page": (b"<html>404 not found</html>" * 99, "damaged or not a tar archive"),
    "no images": (tar_of({"a/notes.txt": b"-"}), "no images in .*/train"),
    "cut short within an image": (WHOLE[: SECOND + 700], "cut short within a/1.jpg"),
    "cut short within a header": (WHOLE[: SECOND + 100], "has no end where its members end"),
    "cut short between two images": (WHOLE[:SECOND], "has no end where its members end"),
    "damaged in the middle": (DAMAGED, "has no end where its members end"),
    "gzip": (tar_of(GOOD, "w:gz"), r"is compressed \(gzip\)"),
    "xz": (tar_of(GOOD, "w:xz"), r"is compressed \(xz\)"),
    "symbolic link": (member("a/1.jpg", tarfile.SYMTYPE), "holds the link 'a/1.jpg'"),
    "hard link": (member("a/1.jpg", tarfile.LNKTYPE), "holds the link 'a/1.jpg'"),
    "device": (member("a/1.jpg", tarfile.CHRTYPE), "holds the device"),
    "pipe": (member("a/1.jpg", tarfile.FIFOTYPE), "holds the device"),
    "sparse file": (sparse(), "damaged or not a tar archive"),
    "negative size": (negative(-512), "negative size"),
    "absolute path": (tar_of({"/a/0.jpg": IMAGE}), "not a path below its folder"),
    "path that leads up": (tar_of({"a/../../b/0.jpg": IMAGE}), "not a path below its folder"),
    "a name twice": (WHOLE[:-BLOCKS_OF_END] + WHOLE, "holds files of the same name"),
    "no label for one": (
        tar_of({"0.jpg": IMAGE, "0.cls": b"0", "1.jpg": IMAGE}),
        "'1.jpg' has no .cls file with its label",
    ),
    "label of nothing": (tar_of({"0.jpg": IMAGE, "0.cls": b""}), "'0.cls' holds no label"),
    "label of bytes": (tar_of({"0.jpg": IMAGE, "0.cls": b"\xff\xfe"}), "'0.cls' holds no label"),
    "label with a path": (tar_of({"0.jpg": IMAGE, "0.cls": b"../x"}), "'0.cls' holds no label"),
    "JSON without a label": (tar_of({"0.jpg": IMAGE, "0.json": b'{"width": 3}'}), "'0.json' holds no label"),
    "deep JSON": (tar_of({"0.jpg": IMAGE, "0.json": b"[" * 100_000}), "'0.json' holds no label"),
    "no JSON": (tar_of({"0.jpg": IMAGE, "0.json": b"cat"}), "'0.json' holds no label"),
    "labels next to class folders": (tar_of({"0.jpg": IMAGE, "0.cls": b"a"}), "some archives of .* have label files"),
    "other classes": (tar_of({"b/0.jpg": IMAGE}), "val/ lacks b and train/ lacks a"),
}


@pytest.mark.parametrize("name", BAD_ARCHIVES)
def test_bad_archives_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    content, says = BAD_ARCHIVES[name]
    (tmp_path / "train.tar").write_bytes(content)
    (tmp_path / "val.tar").write_bytes(WHOLE)
    with pytest.raises(UserError, match=says) as caught:
        open_source(str(tmp_path), image_size=32)
    assert caught.value.exit_code == 2 and str(tmp_path) in str(caught.value)
    assert failure_of("check-data", tmp_path, code=2) == str(caught.value)


def test_archives_that_do_not_fit_together(folder: Path, tmp_path: Path) -> None:
    train, val = images_of(folder, "train"), images_of(folder, "val")
    flat = labelled(train, lambda name: b"7")

    def refused(**archives: dict[str, bytes]) -> str:
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        write(root, {f"{name.replace('_', '/')}.tar": files for name, files in archives.items()})
        (root / "classes.txt").write_text("cat\ndog\n")
        with pytest.raises(UserError) as caught:
            read_index(str(root))
        return str(caught.value)

    assert "has no archive for val" in refused(train=train)
    assert "nothing says whether" in refused(one=train, val=val)
    assert "says val, but it holds images in train/" in refused(
        val={f"train/{name}": image for name, image in val.items()}
    )
    assert "hold files of the same name, cat/0.JPEG" in refused(train_0=train, train_1=train, val=val)
    assert "names 2 classes, but an image has the label 7" in refused(train=flat, val=flat)
    (tmp_path / "gz").mkdir()
    (tmp_path / "gz/train.tar.gz").write_bytes(tar_of(train, "w:gz"))
    assert "is compressed (gzip)" in failure_of("check-data", tmp_path / "gz")


# ---------------------------------------------------------------- pack


def test_packed_images_are_the_same_data_set(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, again = tmp_path / "shards", tmp_path / "again"
    succeed("pack", folder, out, "--images", 3, "--processes", 1)
    assert f"{out}: 8 training and 4 validation images of 2 classes in 5 archives\n" in capsys.readouterr().out
    archives = ["train-00000.tar", "train-00001.tar", "train-00002.tar", "val-00000.tar", "val-00001.tar"]
    assert sorted(path.name for path in out.glob("*.tar")) == archives
    assert facts(out) == facts(folder)
    succeed("pack", out, again, "--images", 100, "--processes", 1)  # pack also reads archives
    assert facts(again) == facts(folder)
    with tarfile.open(again / "train-00000.tar") as tar:
        names = tar.getnames()
        label = tar.extractfile(names[1]).read()  # type: ignore[union-attr]
    assert [name.split(".")[0] for name in names[::2]] == [name.split(".")[0] for name in names[1::2]]
    assert label == b"%d" % ["cat", "dog"].index(names[0].split("/")[1])
    assert names[::2] != sorted(names[::2])  # the images are not sorted by their class


def test_packing_continues_and_leaves_other_folders_alone(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    succeed("pack", folder, out, "--images", 3, "--processes", 1)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    journal = (out / ".pack.jsonl").read_bytes()
    (out / ".pack.jsonl").write_bytes(journal[: journal.index(b"train-00001")])  # the journal as it is after a kill
    (out / "train-00002.tar").write_bytes(b"half")
    succeed("pack", folder, out, "--images", 3, "--processes", 1)
    kept = {path.name for path, time_ns in before.items() if path.stat().st_mtime_ns == time_ns}
    assert kept == {"train-00000.tar"}
    assert facts(out) == facts(folder)
    assert "was begun from other images or with other options" in failure_of("pack", folder, out, "--images", 4)
    assert "holds other files" in failure_of("pack", out, folder)


def test_packed_images_made_smaller(folder: Path, tmp_path: Path) -> None:
    succeed("pack", folder, tmp_path / "small", "--resize", 16, "--processes", 1)
    large, small = read_index(str(folder)), read_index(str(tmp_path / "small"))
    assert small.train.names.tolist() == large.train.names.tolist()
    assert {Image.open(io.BytesIO(small.train.read(place))).size for place in range(8)} == {(21, 16)}


def test_names_that_webdataset_would_take_for_one_get_no_label_files(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2):
        (folder / f"train/dog/a.{number}.jpg").write_bytes(picture(60 + number))
    (folder / "val/dog/1.JPEG").rename(folder / os.fsdecode(b"val/dog/\xff\n.JPEG"))
    succeed("pack", folder, tmp_path / "shards", "--processes", 1)
    assert "without label files" in capsys.readouterr().out
    assert facts(tmp_path / "shards") == facts(folder)


def test_official_archives_can_be_packed(tmp_path: Path) -> None:
    archives = make_archives(tmp_path / "archives")
    succeed("prepare-imagenet", archives, tmp_path / "folder", "--processes", 1)
    succeed("pack", tmp_path / "folder", tmp_path / "shards", "--processes", 1)
    succeed("pack", archives, tmp_path / "others", "--processes", 1)
    assert facts(tmp_path / "shards") == facts(tmp_path / "others") == facts(tmp_path / "folder") == facts(archives)
    assert (tmp_path / "shards/classes.json").read_bytes() == (tmp_path / "folder/classes.json").read_bytes()


def test_an_image_that_cannot_be_packed_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "train/cat/1.JPEG").write_bytes(IMAGE[:-300])
    line = failure_of("pack", folder, tmp_path / "a", "--resize", 16, "--processes", 1, code=3)
    assert f"cannot decode the image {folder}/train/cat/1.JPEG" in line
    # Without --resize, `pack` does not decode the images, so it does not find the damaged one.
    succeed("pack", folder, tmp_path / "b", "--processes", 1)
    (folder / "train/cat/1.JPEG").unlink()
    (folder / "train/cat/1.JPEG").symlink_to("nowhere")
    assert "cannot read the image" in failure_of("pack", folder, tmp_path / "c", "--processes", 1, code=3)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--images", "0"], "--images is 0: give 1 or more"),
        (["--resize", "0"], "--resize is 0: give 1 pixel or more"),
        (["--quality", "90"], "add --resize PIXELS"),
        (["--resize", "9", "--quality", "101"], "--quality is 101: give 1 to 100"),
        (["--processes", "0"], "--processes is 0"),
        (["--imges", "9"], "did you mean --images"),
    ],
)
def test_bad_arguments_of_pack(argv: list[str], says: str, folder: Path, tmp_path: Path) -> None:
    assert says in failure_of("pack", folder, tmp_path / "out", *argv)


def test_a_source_that_training_refuses_is_refused(tmp_path: Path) -> None:
    assert "no such data folder" in failure_of("pack", tmp_path / "gone", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_labels_are_int64(folder: Path, tmp_path: Path) -> None:
    root = write(tmp_path / "shards", in_class_folders(images_of(folder, "train"), images_of(folder, "val")))
    assert read_index(str(root)).train.labels.dtype == np.int64
