"""`--stage` copies archives to a local disk. A run reads a copy as soon as it is complete, and does not need it."""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from app.data.sources import DataOptions, read_folder
from app.storage import staged, staging
from app.storage.files import ArchiveFiles, Files
from app.storage.index import read_index
from app.storage.listing import Index
from app.storage.staging import Copy, NotCopied, copy_archives
from tests.support.bad_folders import good_folder
from tests.support.caches import make_old
from tests.support.disks import small_disk
from tests.support.fork_server import start_app
from tests.support.imagenet_archives import TRAIN, VALIDATION, make_archives
from tests.support.in_process import failure_of
from tests.support.programs import run
from tests.support.reads import reads

PIECE = 1024


@pytest.fixture(autouse=True)
def small(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "PIECE", PIECE)
    monkeypatch.setattr(staged, "SECONDS_BETWEEN_LOOKS", 0.0)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Make small official archives, with 12 training and 7 validation images.

    Their modification times are in the past, because the lists of newer archives are not kept in the cache.
    """
    folder = make_archives(tmp_path / "archives")
    make_old(folder)
    return folder


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return tmp_path / "disk"


def copies_of(data: Path, disk: Path) -> list[Copy]:
    archives = data / TRAIN, data / VALIDATION
    paths = staged.copy_paths(str(data), [str(path) for path in archives], str(disk))
    return [
        Copy(archive, Path(path), (archive.stat().st_size, archive.stat().st_mtime_ns))
        for archive, path in zip(archives, paths, strict=True)
    ]


def staged_index(data: Path, disk: Path) -> Index:
    index, _ = read_folder(DataOptions(str(data), stage=str(disk)))
    return index


def contents(files: Files) -> list[bytes]:
    return [files.read(place) for place in range(len(files))]


def overwrite(path: Path, content: bytes, place: int = 0) -> None:
    """Overwrite a part of a file, and keep its size and its time, so that the change is not visible."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(place)
        file.write(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def wipe_images(data: Path) -> None:
    """Overwrite all images in the archives with zeros."""
    index = read_index(str(data))
    for files in (index.train, index.validation):
        assert isinstance(files, ArchiveFiles)
        for number, offset, size in zip(files.numbers, files.offsets, files.sizes, strict=True):
            overwrite(Path(files.archives.paths[number]), bytes(size), offset)


def test_images_are_read_from_the_copies_as_soon_as_these_are_complete(data: Path, disk: Path) -> None:
    plain, index = read_index(str(data)), staged_index(data, disk)
    train, validation = copies_of(data, disk)
    expected = contents(plain.train), contents(plain.validation)
    with reads() as opened:
        assert (contents(index.train), contents(index.validation)) == expected
    assert opened == {str(train.archive), str(validation.archive)}
    said: list[str] = []
    train.path.parent.mkdir(parents=True)
    staging.copy_file(train, bool)
    with reads() as opened:
        assert (contents(index.train), contents(index.validation)) == expected
    assert opened == {str(train.path)}  # the validation archive is already open
    copy_archives(str(data), str(disk), said.append)
    size = train.archive.stat().st_size, validation.archive.stat().st_size
    assert said[0] == f"1 of 2 archives are copied to {train.path.parent}, {size[1] / 1e6:.1f} MB"
    assert re.match(rf"all images are read from {re.escape(str(train.path.parent))}; copied in \d+ s, ", said[-1])
    assert 9 <= len(said) - 2 <= 10 and all(" left" in line and " copied, " in line for line in said[1:-1])
    assert {path.name for path in train.path.parent.iterdir()} == {train.path.name, validation.path.name, "lock"}
    for again in (index, pickle.loads(pickle.dumps(index)), staged_index(data, disk)):
        assert again.fingerprint == plain.fingerprint
        wipe_images(data)
        assert (contents(again.train), contents(again.validation)) == expected
        assert contents(again.train.take(slice(3, 5))) == expected[0][3:5]
        assert again.train.place(0) == plain.train.place(0)  # messages name the archive that the user gave
    said.clear()
    copy_archives(str(data), str(disk), said.append)
    assert said == [f"all images are read from {train.path.parent}"]


def test_a_copy_that_was_killed_continues_after_its_last_good_piece(data: Path, disk: Path) -> None:
    train, _ = copies_of(data, disk)
    whole = train.archive.read_bytes()
    assert len(whole) > 6 * PIECE
    if not (child := os.fork()):
        try:
            said: list[int] = []
            train.path.parent.mkdir(parents=True)
            staging.copy_file(train, lambda size: os.kill(os.getpid(), 9) if said[4:] else said.append(size))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert train.part.read_bytes() == whole[: 6 * PIECE] and not train.path.exists()
    overwrite(train.part, b"?", 4 * PIECE + 7)  # the fifth piece is damaged
    train.sums.write_text(train.sums.read_text()[:-9])  # the last checksum is incomplete
    overwrite(train.archive, bytes(PIECE), PIECE)  # the second piece is already copied, and must not be copied again
    reported: list[int] = []
    staging.copy_file(train, reported.append)
    assert train.path.read_bytes() == whole
    assert sum(reported) == len(whole) and reported[0] == PIECE


def test_only_what_fits_is_copied_and_room_is_left(data: Path, disk: Path) -> None:
    train, validation = copies_of(data, disk)
    need = train.state[0] + validation.state[0]
    assert staging.choose([train, validation], need) == ([train, validation], [])
    assert staging.choose([train, validation], need - 1) == ([train], [validation])
    assert staging.choose([train, validation], train.state[0] - 1) == ([validation], [train])
    train.path.parent.mkdir(parents=True)
    train.part.write_bytes(bytes(5 * PIECE))  # this part is already on the disk
    assert staging.choose([train, validation], need - 5 * PIECE) == ([train, validation], [])


@pytest.fixture
def tiny_disk(disk: Path) -> Iterator[Path]:
    """Yield a disk of 4 MiB."""
    with small_disk(disk, "4m") as tiny:
        yield tiny


def test_a_disk_that_is_too_small(data: Path, tiny_disk: Path) -> None:
    train, validation = copies_of(data, tiny_disk)
    said: list[str] = []
    other = staging.free_bytes(tiny_disk) - train.state[0] - validation.state[0] // 2
    (tiny_disk / "other").write_bytes(bytes(other))
    copy_archives(str(data), str(tiny_disk), said.append)
    assert said[0].endswith(f"; the disk is too small for {validation.archive}") and "1 of 2" in said[0]
    assert said[-1].startswith("the images of 1 archives are read from")
    assert train.path.exists() and not validation.path.exists() and not validation.part.exists()
    free = os.statvfs(tiny_disk)
    assert 0.05 < free.f_bavail / free.f_blocks < 0.06
    with reads() as opened:
        index = staged_index(data, tiny_disk)
        assert contents(index.train) == contents(read_index(str(data)).train)
        contents(index.validation)
    assert {str(train.path), str(validation.archive)} < opened


def test_a_disk_that_others_fill_during_the_copy(data: Path, tiny_disk: Path) -> None:
    train, _ = copies_of(data, tiny_disk)
    train.path.parent.mkdir(parents=True)
    other = bytes(int(0.98 * 2**22))
    with pytest.raises(NotCopied, match=f"other programs have filled the disk of {train.path.parent}"):
        staging.copy_file(train, lambda size: (tiny_disk / "other").write_bytes(other))
    assert list(train.path.parent.iterdir()) == []


def test_an_archive_that_changes(data: Path, disk: Path) -> None:
    train, validation = copies_of(data, disk)
    copy_archives(str(data), str(disk), bool)
    old = train.path.read_bytes()
    os.utime(train.archive)
    again, _ = copies_of(data, disk)
    assert again.path != train.path
    with pytest.raises(NotCopied, match=f"{train.archive} has changed"):
        staging.copy_file(again, lambda size: os.utime(train.archive, (1e9, 1e9)))
    assert not again.part.exists() and not again.sums.exists()
    os.truncate(train.archive, train.state[0] - 512)
    with pytest.raises(NotCopied, match=f"{train.archive} has changed"):
        staging.copy_file(again, bool)
    train.archive.write_bytes(old)
    copy_archives(str(data), str(disk), bool)  # the copy of the old archive is removed
    final, _ = copies_of(data, disk)
    assert {path.name for path in final.path.parent.iterdir()} == {final.path.name, validation.path.name, "lock"}
    assert not train.path.exists()


def test_a_copy_that_cannot_be_read_is_left_with_one_warning(
    data: Path, disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = contents(read_index(str(data)).train)
    copy_archives(str(data), str(disk), bool)
    train, _ = copies_of(data, disk)
    os.truncate(train.path, 6 * PIECE)
    indices = staged_index(data, disk), staged_index(data, disk)
    for index in indices:
        index.train.read(0)
    for index in indices:  # each index stands for a loader process
        assert contents(index.train) == expected
    [line] = capsys.readouterr().err.splitlines()
    assert line == (
        f"warning: {socket.gethostname()} cannot read {train.path}: the archive has become shorter since it was"
        f" listed; {train.archive} is read instead"
    )
    assert not train.path.exists()


def test_a_folder_that_cannot_be_made_is_one_warning(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    command = [sys.executable, "-m", "app.storage.staging", data, tmp_path / "file", os.getpid(), 0]
    done = run(*command)
    where = staged.copy_paths(str(data), ["x"], str(tmp_path / "file"))[0].rpartition("/")[0]
    assert done.stderr == (
        f"warning: stage on {socket.gethostname()}: {where}: Not a directory; what is not copied is read from {data}\n"
    )


def test_the_copying_process_ends_with_the_run(data: Path, disk: Path) -> None:
    """The copying process ends when its run is killed, also while it waits for the copies of another run."""
    train, _ = copies_of(data, disk)
    train.path.parent.mkdir(parents=True)
    with (train.path.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        reading, writing = os.pipe()
        if not (child := os.fork()):
            os.write(writing, b"%d\n" % staging.start_staging(str(data), str(disk), progress=True).pid)
            signal.pause()
        copier = psutil.Process(int(os.read(reading, 100)))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert psutil.wait_procs([copier], timeout=60)[1] == []
    assert {path.name for path in train.path.parent.iterdir()} == {"lock"}


def test_what_cannot_be_staged(tmp_path: Path) -> None:
    folder = good_folder(tmp_path / "folder")
    line = failure_of("plan", "--data", folder, "--stage", tmp_path / "disk")
    assert line.startswith(f"--stage copies archives, and {folder} holds separate files: pack them (./run.sh pack")
    line = failure_of("plan", "--data", "digits", "--stage", tmp_path / "disk")
    assert line == "--stage copies the archives of a folder: leave it out with --data digits"


def test_a_run_reads_its_copies_and_ends_their_process(data: Path, disk: Path, tmp_path: Path) -> None:
    """After the run has opened the copies, the archives are overwritten. The run must not read them any more."""
    recipe = "--image-size 24 --resize 28 --model resnet8 --width 4 --epochs 10000 --minibatch 4 --per-worker 4"
    how = "--loader-processes 0 --device cpu --log-every 1"
    where = ["--data", data, "--stage", disk, "--output", tmp_path / "run"]
    log = tmp_path / "run/log.jsonl"
    child = start_app("train", *recipe.split(), *how.split(), *where, log=tmp_path / "said")
    process, paths = psutil.Process(child.pid), {str(copy.path) for copy in copies_of(data, disk)}

    def wait_for(condition: Callable[[], bool]) -> None:
        while not condition():
            assert not child.has_ended(), (tmp_path / "said.err").read_text()
            time.sleep(0.01)

    try:
        wait_for(lambda: paths <= {file.path for file in process.open_files()})
        wipe_images(data)
        begun = len(log.read_text().splitlines())
        wait_for(lambda: len(log.read_text().splitlines()) > begun + 20)
    finally:
        os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    lines = (tmp_path / "said.err").read_text().splitlines()
    assert f"stage on {socket.gethostname()}: 2 of 2 archives are copied to" in lines[0]
    assert json.loads(log.read_text().splitlines()[0])["iteration"] == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can give a file to another user")
def test_copies_of_another_user_are_not_read(data: Path, disk: Path) -> None:
    """Copies that belong to another user are not read, because the folder of --stage may be open to all users."""
    copy_archives(str(data), str(disk), print)
    good = contents(staged_index(data, disk).train)
    train, _ = copies_of(data, disk)
    overwrite(train.path, bytes(train.state[0]))
    os.chown(train.path, 65534, 65534)
    assert contents(staged_index(data, disk).train) == good
    os.chown(train.path.parent, 65534, 65534)
    with pytest.raises(NotCopied, match="belongs to another user"):
        copy_archives(str(data), str(disk), print)
