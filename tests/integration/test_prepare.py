"""`prepare-imagenet` on small archives that have the structure of ImageNet's archives."""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from app.base.errors import UserError
from app.storage.index import read_index
from tests.support.imagenet_archives import (
    CLASSES,
    DEVKIT,
    MAT,
    TRAIN,
    TRUTH,
    TXT,
    VALIDATION,
    devkit,
    make_archives,
    meta_mat,
    picture,
    tar_of,
    training_images,
    validation_images,
)  # fmt: skip
from tests.support.in_process import failure_of, succeed
from tests.support.programs import APP

ROOT = Path(__file__).parents[2]


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    return make_archives(tmp_path / "archives")


def expected_files() -> dict[str, bytes]:
    """Return the files that the folder must have, as a dict from path to content."""
    wnids = list(CLASSES)
    files = {
        f"train/{w}/{name}": content for w, images in training_images().items() for name, content in images.items()
    }
    for (name, content), label in zip(validation_images().items(), TRUTH, strict=True):
        files[f"val/{wnids[label - 1]}/{name}"] = content
    return files


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.parent != folder
    }


def prepare(archives: Path, out: Path, *options: object, processes: int = 1) -> None:
    succeed("prepare-imagenet", archives, out, *options, "--processes", processes)


def refused(archives: Path, out: Path, *options: object, processes: int = 1, code: int = 2) -> str:
    """Run prepare-imagenet, which must end with the exit code `code`, and return its error message."""
    return failure_of("prepare-imagenet", archives, out, *options, "--processes", processes, code=code)


@pytest.mark.parametrize("processes", [1, 3])
def test_every_image_is_where_it_belongs(
    archives: Path, tmp_path: Path, processes: int, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(archives, tmp_path / "out", processes=processes)
    assert files_below(tmp_path / "out") == expected_files()
    names = json.loads((tmp_path / "out" / "classes.json").read_text())
    assert names == {wnid: words for wnid, (words, _) in CLASSES.items()}
    assert "12 training and 7 validation images of 3 classes" in capsys.readouterr().out
    index = read_index(str(tmp_path / "out"))
    assert index.classes == tuple(CLASSES)
    assert (len(index.train), len(index.validation)) == (12, 7)


def test_again_writes_nothing(archives: Path, tmp_path: Path) -> None:
    prepare(archives, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/*/*")}
    prepare(archives, tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/*/*")} == before


def test_goes_on_from_any_point(archives: Path, tmp_path: Path) -> None:
    """The command continues after the journal was cut and files are missing, truncated or incomplete.

    This is the state after a kill or a power failure.
    """
    out = tmp_path / "out"
    prepare(archives, out)
    journal = out / ".prepare-imagenet.jsonl"
    whole = journal.read_bytes()
    lines = whole.splitlines(keepends=True)
    kept = next((out / "train/n01440764").iterdir())
    for cut in (len(lines[0]), len(lines[0]) + 9, len(whole) - 3, len(whole) - len(lines[-1])):
        journal.write_bytes(whole[:cut])
        done = whole[:cut].decode()
        for part in (p for p in ("train/n02084071", "val/0") if f'"{p}"' not in done):
            first, second = sorted((out / (part if part != "val/0" else "val")).rglob("*.JPEG"))[:2]
            first.unlink()
            second.write_bytes(second.read_bytes()[:50])
            (first.parent / f".{first.name}.tmp").write_bytes(b"half")
        time_before = kept.stat().st_mtime_ns
        prepare(archives, out)
        assert files_below(out) == expected_files()
        assert kept.stat().st_mtime_ns == time_before  # a complete image is not written again


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_killed_and_started_again(how: signal.Signals, tmp_path: Path) -> None:
    """When the command is killed, no process is left. The next start unpacks only the images that are missing."""
    folder, out, count = make_archives(tmp_path / "archives"), tmp_path / "out", 40
    many = {f"n01440764_{number}.JPEG": picture(0, (1600, 1200)) for number in range(count)}
    train = {"n01440764.tar": tar_of(many), "n01443537.tar": tar_of({"n01443537_1.JPEG": picture(1)})}
    (folder / TRAIN).write_bytes(tar_of(train))
    (folder / VALIDATION).write_bytes(tar_of({"ILSVRC2012_val_00000001.JPEG": picture(7)}))
    (folder / DEVKIT).write_bytes(
        devkit("1\n", meta_mat({"n01440764": ("tench", count), "n01443537": ("goldfish", 1)}))
    )
    command = [*APP, "prepare-imagenet", str(folder), str(out), "--resize", "256", "--processes", "2"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(lambda: len(list(out.glob("train/n01440764/*.JPEG"))) > 3)
    process.send_signal(how)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == (75 if how == signal.SIGTERM else -how)
    assert ("the same command continues" in stderr) == (how == signal.SIGTERM)
    assert "Traceback" not in stderr
    wait_for(lambda: not session_lives(process.pid))
    begun = {path: path.stat().st_mtime_ns for path in out.glob("train/n01440764/*.JPEG")}
    assert 3 < len(begun) < count
    prepare(folder, out, "--resize", 256)
    assert len(list(out.glob("train/n01440764/*.JPEG"))) == count
    assert all(path.stat().st_mtime_ns == when for path, when in begun.items())


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def session_lives(leader: int) -> bool:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            return True
    return False


def test_resize_shrinks_the_shorter_side_once(archives: Path, tmp_path: Path) -> None:
    images = {**training_images()["n01440764"]}
    names = list(images)
    images[names[0]] = picture(1, (900, 600))
    images[names[1]] = picture(2, (333, 1000))
    images[names[2]] = picture(3, (700, 400), mode="CMYK")
    images[names[3]] = picture(4, (300, 256))
    train = {f"{wnid}.tar": tar_of(files) for wnid, files in (training_images() | {"n01440764": images}).items()}
    (archives / TRAIN).write_bytes(tar_of(train))
    out = tmp_path / "out"
    prepare(archives, out, "--resize", 256, "--quality", 90)
    sizes = {name: Image.open(out / "train/n01440764" / name).size for name in names[:3]}
    assert list(sizes.values()) == [(384, 256), (256, 769), (448, 256)]
    assert {Image.open(out / "train/n01440764" / name).mode for name in names[:3]} == {"RGB"}
    # This image is not larger than the given size, so it is unchanged.
    assert (out / "train/n01440764" / names[3]).read_bytes() == images[names[3]]
    coarse = Image.open(io.BytesIO(images[names[0]])).resize((384, 256), Image.Resampling.BOX)
    shrunk = Image.open(out / "train/n01440764" / names[0])
    difference = [abs(a - b) for a, b in zip(coarse.tobytes(), shrunk.tobytes(), strict=True)]
    assert sum(difference) / len(difference) < 3
    better = tmp_path / "better"
    prepare(archives, better, "--resize", 256, "--quality", 100)
    assert (better / "train/n01440764" / names[0]).stat().st_size > 1.5 * (
        out / "train/n01440764" / names[0]
    ).stat().st_size


def test_one_at_a_time(archives: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    folder = os.open(tmp_path / "out", os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    assert "another prepare-imagenet is running" in refused(archives, tmp_path / "out")
    os.close(folder)
    prepare(archives, tmp_path / "out")


def test_disk_is_asked_for_beforehand(archives: Path, tmp_path: Path) -> None:
    """An archive that needs 4 TB is refused before anything is written, because the disk has not enough space.

    The archive of this test is a sparse file, which takes no space.
    """
    size = 2**42
    entry = tarfile.TarInfo("n01440764.tar")
    entry.size = size
    rest = tar_of({name: tar for name, tar in CLASS_TARS.items() if name != entry.name})
    try:
        with (archives / TRAIN).open("wb") as file:
            file.write(entry.tobuf(tarfile.GNU_FORMAT))
            file.seek(size, os.SEEK_CUR)
            file.write(rest)
    except OSError:
        pytest.skip("the file system has no sparse files of 4 TB")
    if os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize > size:
        pytest.skip("the disk has more than 4 TB free")
    line = refused(archives, tmp_path / "out")
    assert "GB free, and the images take about 4,398.0 GB" in line
    assert not (tmp_path / "out" / "train").exists()


def test_what_changed_on_the_disk_is_named(archives: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(archives, out)
    next((out / "train/n01443537").iterdir()).unlink()
    (out / "val/n01440764/more.JPEG").write_bytes(b"x")
    line = refused(archives, out)
    assert f"{out}/train/n01443537, {out}/val: changed since this command wrote it" in line
    (out / "val/n01440764/more.JPEG").unlink()
    prepare(archives, out)
    assert files_below(out) == expected_files()


def member(name: str, kind: bytes, target: str = "") -> bytes:
    """Return an archive with an entry that is not a plain file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = kind, target
        tar.addfile(entry)
    return out.getvalue()


CLASS_TARS = {f"{wnid}.tar": tar_of(images) for wnid, images in training_images().items()}


def train_with(inner: bytes) -> bytes:
    return tar_of(CLASS_TARS | {"n01440764.tar": inner})


def class_with(more: dict[str, bytes]) -> bytes:
    return train_with(tar_of(training_images()["n01440764"] | more))


GOOD_TRAIN = train_with(tar_of(training_images()["n01440764"]))
IMAGE = picture(5)
# An archive that contains a class twice. [:512] is the header of an empty member.
TWICE = tar_of({"n01440764.tar": b""})[:512] + GOOD_TRAIN
DAMAGED = GOOD_TRAIN[:600] + b"\xff" * 512 + GOOD_TRAIN[1112:]

# A dict from the name of a case to the archive that is replaced, its new content (None: the archive is missing), and a
# regular expression for the error message.
BAD_ARCHIVES: dict[str, tuple[str, bytes | None, str]] = {
    "no training archive": (TRAIN, None, f"there is no .*{TRAIN}"),
    "no validation archive": (VALIDATION, None, f"there is no .*{VALIDATION}"),
    "no devkit": (DEVKIT, None, f"there is no .*{DEVKIT}"),
    "empty training archive": (TRAIN, b"", "damaged or not a tar"),
    "a web page for an archive": (TRAIN, b"<html>404 not found</html>" * 99, "damaged or not a tar"),
    "training archive of nothing": (TRAIN, tar_of({}), "empty archive"),
    "training archive cut short": (TRAIN, GOOD_TRAIN[:20000], "damaged|cut short"),
    "training archive cut in its last class": (TRAIN, GOOD_TRAIN[:-15000], "damaged|cut short"),
    "a class missing": (TRAIN, tar_of({n: CLASS_TARS[n] for n in list(CLASS_TARS)[:2]}), "lacks 1 of 3 .*n02084071"),
    "a class too many": (TRAIN, tar_of(CLASS_TARS | {"n09999999.tar": IMAGE}), "that are not in .*, n09999999"),
    "a class twice": (TRAIN, TWICE, "holds files of the same name"),
    "a class under another name": (TRAIN, tar_of({"tench.tar": IMAGE}), "which the official archive does not"),
    "training images not in classes": (TRAIN, tar_of({"n01440764_3.JPEG": IMAGE}), "which the official"),
    "path traversal between classes": (TRAIN, tar_of({"../n01440764.tar": b""}), "written outside its folder"),
    "path traversal within a class": (TRAIN, class_with({"../../evil.JPEG": IMAGE}), "written outside its folder"),
    "absolute path within a class": (TRAIN, class_with({"/tmp/evil.JPEG": IMAGE}), "written outside its folder"),
    "symbolic link": (TRAIN, train_with(member("n01440764_3.JPEG", tarfile.SYMTYPE, "/etc/passwd")), "holds the link"),
    "hard link": (TRAIN, train_with(member("n01440764_3.JPEG", tarfile.LNKTYPE, "/etc/passwd")), "holds the link"),
    "device": (TRAIN, train_with(member("n01440764_3.JPEG", tarfile.CHRTYPE)), "holds the device"),
    "pipe": (TRAIN, train_with(member("n01440764_3.JPEG", tarfile.FIFOTYPE)), "holds the device"),
    "folder": (TRAIN, train_with(member("n01440764_3.JPEG", tarfile.DIRTYPE)), "holds the folder"),
    "class archive is a link": (TRAIN, member("n01440764.tar", tarfile.SYMTYPE, "/etc/passwd"), "holds the link"),
    "an image of another class": (TRAIN, class_with({"n01443537_1.JPEG": IMAGE}), "which the official"),
    "an image too many": (TRAIN, class_with({"n01440764_999.JPEG": IMAGE}), "holds 6 images.*says 5"),
    "an image missing": (TRAIN, train_with(tar_of({"n01440764_3.JPEG": IMAGE})), "holds 1 images.*says 5"),
    "class archive empty": (TRAIN, train_with(tar_of({})), "n01440764.tar is an empty archive"),
    "class archive of rubbish": (TRAIN, train_with(b"rubbish" * 500), "n01440764.tar is (an empty|damaged)"),
    "class archive damaged within": (TRAIN, DAMAGED, "download it again"),
    "validation with folders": (VALIDATION, tar_of({"val/ILSVRC2012_val_00000001.JPEG": IMAGE}), "which the official"),
    "validation image missing": (VALIDATION, tar_of(dict(list(validation_images().items())[1:])), "holds 6 images"),
    "validation archive is the training archive": (VALIDATION, GOOD_TRAIN, "which the official archive does not"),
    "devkit not gzipped": (DEVKIT, tar_of({MAT: meta_mat()}), "cannot read|damaged"),
    "devkit cut short": (DEVKIT, devkit()[:500], "cannot read|damaged"),
    "devkit without meta.mat": (DEVKIT, tar_of({TXT: b"1\n"}, "w:gz"), "has no data/meta.mat"),
    "devkit without ground truth": (DEVKIT, tar_of({MAT: meta_mat()}, "w:gz"), "has no data/ILSVRC2012_validation"),
    "meta.mat of rubbish": (DEVKIT, devkit(mat=b"rubbish" * 99), "meta.mat cannot be read"),
    "meta.mat of another shape": (DEVKIT, devkit(mat=meta_mat({"tench": ("tench", 1)})), "does not list the classes"),
    "meta.mat without images": (DEVKIT, devkit(mat=meta_mat({"n01440764": ("tench", 0)})), "does not list the classes"),
    "ground truth of words": (DEVKIT, devkit("1\n2\ntench\n"), "line 3: 'tench' is not a class from 1 to 3"),
    "ground truth out of range": (DEVKIT, devkit("1\n4\n"), "line 2: '4' is not a class from 1 to 3"),
    "ground truth empty": (DEVKIT, devkit(""), "is empty"),
    "ground truth too long": (DEVKIT, devkit("1\n" * 9), "labels for 9"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_ARCHIVES)
def test_bad_archives_end_in_one_line(name: str, archives: Path, tmp_path: Path) -> None:
    file, content, says = BAD_ARCHIVES[name]
    (archives / file).unlink()
    if content is not None:
        (archives / file).write_bytes(content)
    line = refused(archives, tmp_path / "out")
    assert re.search(says, line), line
    written = files_below(tmp_path / "out") if (tmp_path / "out").exists() else {}
    assert written.keys() <= expected_files().keys()
    assert not list(tmp_path.rglob("*evil*"))
    with pytest.raises(UserError) as caught:  # training has the same error message
        read_index(str(archives))
    assert str(caught.value) == line and caught.value.exit_code == 2


# A dict from the name of a case to the arguments after ARCHIVES and OUT, and a part of the error message.
BAD_ARGUMENTS = {
    "resize to another size": (["--resize", "300"], "--resize is 300"),
    "quality without resize": (["--quality", "90"], "add --resize 256 or 512"),
    "quality 0": (["--resize", "256", "--quality", "0"], "--quality is 0: give 1 to 100"),
    "quality 101": (["--resize", "256", "--quality", "101"], "--quality is 101: give 1 to 100"),
    "no processes": (["--processes", "0"], "--processes is 0: give 1 or more"),
    "unknown option": (["--resise", "256"], "did you mean --resize"),
}


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_bad_arguments_end_in_one_line(name: str, archives: Path, tmp_path: Path) -> None:
    argv, says = BAD_ARGUMENTS[name]
    line = failure_of("prepare-imagenet", archives, tmp_path / "out", *argv)
    assert says in line


def test_output_of_others_is_left_alone(archives: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("mine")
    assert "holds other files" in refused(archives, tmp_path / "out")
    (tmp_path / "file").write_text("mine")
    assert "File exists" in refused(archives, tmp_path / "file")
    prepare(archives, tmp_path / "good")
    assert "another --resize" in refused(archives, tmp_path / "good", "--resize", 256)


def test_image_that_cannot_be_resized_is_named(archives: Path, tmp_path: Path) -> None:
    images = training_images()["n01440764"]
    images["n01440764_3.JPEG"] = picture(1, (900, 600))[:2000]
    (archives / TRAIN).write_bytes(train_with(tar_of(images)))
    line = refused(archives, tmp_path / "out", "--resize", 256, processes=2, code=3)
    assert f"cannot decode {archives / TRAIN}: n01440764_3.JPEG" in line
    prepare(archives, tmp_path / "other")  # without --resize no image is decoded, so the damaged one is not found


def test_progress_lines_tell_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    from app.base.progress import Progress

    with Progress("prepare-imagenet", 1000, 200) as progress:
        progress.add(1)
        assert capsys.readouterr().err == ""
        progress.started = progress.last_line = time.monotonic() - 20
        progress.add(399)
    assert "prepare-imagenet: 600 of 1,000 images, 20/s, 20 s left" in capsys.readouterr().err
    with Progress("listing the archives", 8_000_000, 0, unit="bytes") as progress:
        progress.started = progress.last_line = time.monotonic() - 20
        progress.add(2_000_000)
    assert "listing the archives: 2 of 8 MB, 0/s, 1 min 00 s left" in capsys.readouterr().err


def test_signal_handlers_come_back() -> None:
    from app.prepare.parallel import stoppable

    before = signal.getsignal(signal.SIGTERM)
    with stoppable():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
