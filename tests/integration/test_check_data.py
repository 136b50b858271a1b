"""`check-data` and `--skip-list`: the report, the journal of checked images, and which images are read again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from app.base.errors import UserError
from app.data.sources import Source, open_source
from app.storage.index import read_index
from tests.support.bad_folders import CLASSES, TRAIN, VALIDATION, good_folder
from tests.support.caches import make_old
from tests.support.imagenet_archives import picture
from tests.support.in_process import failure_of, run_command, succeed
from tests.support.programs import APP

ROOT = Path(__file__).parents[2]


pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return good_folder(tmp_path / "data")


def report_of(capsys: pytest.CaptureFixture[str], folder: Path, *options: object, processes: int = 1) -> dict:
    capsys.readouterr()
    run_command("check-data", folder, "--json", "--processes", processes, *options)
    return json.loads(capsys.readouterr().out)


def journal(cache: Path) -> Path:
    [path] = cache.rglob("*-check.jsonl")
    return path


def test_text_of_a_good_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    succeed("check-data", folder)
    assert capsys.readouterr().out == f"{folder}: 8 training and 4 validation images of 2 classes\n"


def test_text_shows_the_first_of_many(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(7):
        (folder / f"train/cat/bad{number}.jpg").write_bytes(b"text")
    (folder / "val/dog/0.JPEG").write_bytes(picture(9, (20, 30), mode="L"))
    line = failure_of("check-data", folder, code=1)
    assert "7 findings would stop a training run: replace the images or train with --skip-list FILE" in line
    assert capsys.readouterr().out.splitlines()[1:] == [
        "a training run would stop at:",
        "  unreadable: 7 (the file cannot be read, or it is not a JPEG or PNG)",
        *(f"    train/cat/bad{number}.jpg: neither JPEG nor PNG" for number in range(5)),
        "    and 2 more; --json lists all",
        "a training run continues with:",
        "  not-rgb: 1 (grey, palette, CMYK, transparent or 16 bit; training converts it)",
        "    val/dog/0.JPEG: L",
        "  small: 1 (a side is below 32 pixels; training enlarges the image)",
        "    val/dog/0.JPEG: 20 x 30",
    ]


def test_json_lists_every_finding(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "train/cat/copy.JPEG").write_bytes((folder / "val/dog/1.JPEG").read_bytes())
    (folder / "train/cat/other copy.JPEG").write_bytes((folder / "train/cat/0.JPEG").read_bytes())
    (folder / "val/cat/empty.png").write_bytes(b"")
    report = report_of(capsys, folder)
    assert report["folder"] == str(folder)
    assert report["images"] == {"train": 2 * TRAIN + 2, "val": 2 * VALIDATION + 1}
    assert (report["classes"], report["trainable"]) == (2, False)
    assert {kind: count for kind, count in report["counts"].items() if count} == {"unreadable": 1, "duplicate": 1}
    assert report["findings"] == [
        {"kind": "unreadable", "path": "val/cat/empty.png", "detail": "an empty file", "fatal": True},
        {"kind": "duplicate", "path": "train/cat/copy.JPEG", "detail": "the same as val/dog/1.JPEG", "fatal": False},
    ]


def test_any_number_of_processes_finds_the_same(folder: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The result does not depend on the number of processes. Each chunk of work contains images with faults."""
    for number in range(600):
        content = b"text" if number % 97 == 0 else picture(number, (33, 33), mode="L" if number % 53 == 0 else "RGB")
        (folder / f"train/cat/{number:04}.jpg").write_bytes(content)
    reports = []
    for processes in (1, 2, 3):
        reports.append(report_of(capsys, folder, processes=processes))
        journal(cache).unlink()
    assert reports[0] == reports[1] == reports[2]
    found = [finding["path"] for finding in reports[0]["findings"] if finding["kind"] == "unreadable"]
    assert found == [f"train/cat/{number:04}.jpg" for number in range(0, 600, 97)]
    assert reports[0]["counts"]["not-rgb"] == len([n for n in range(600) if n % 53 == 0 and n % 97])


def test_counts_against_imagenet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = good_folder(tmp_path / "data")
    for split in ("train", "val"):
        for wnid, name in zip(("n01440764", "n01443537"), CLASSES, strict=True):
            (folder / split / name).rename(folder / split / wnid)
    report = report_of(capsys, folder)
    assert [(finding["kind"], finding["detail"]) for finding in report["findings"]] == [
        ("counts", "2 classes, ImageNet has 1,000"),
        ("counts", "8 images, ImageNet has 1,281,167"),
        ("counts", "4 images, ImageNet has 50,000"),
    ]
    assert report["trainable"]


def test_second_pass_reads_only_what_changed(folder: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An image is read again only if its size or time has changed. So a change that keeps both is not noticed."""
    first = report_of(capsys, folder)
    image = folder / "train/dog/2.JPEG"
    before, times = image.read_bytes(), (image.stat().st_atime_ns, image.stat().st_mtime_ns)
    image.write_bytes(b"x" * len(before))
    os.utime(image, ns=times)
    assert report_of(capsys, folder) == first
    os.utime(image)
    assert report_of(capsys, folder)["counts"]["unreadable"] == 1
    image.write_bytes(before)
    assert report_of(capsys, folder) == first
    # The journal has two lines for train/, before and after the last change, and one for val/.
    assert len(journal(cache).read_text().splitlines()) == 2 + 1
    report_of(capsys, folder)
    assert len(journal(cache).read_text().splitlines()) == 2


def test_journal_cut_or_spoiled(folder: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = report_of(capsys, folder)
    whole = journal(cache).read_bytes()
    for content in (whole[:-20], b"", b"\xff\x00 rubbish\n[1]\n{}\n", whole[: len(whole) // 3] + b"\n" + whole):
        journal(cache).write_bytes(content)
        assert report_of(capsys, folder) == first


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_stopped_and_started_again(
    how: signal.Signals, folder: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(1200):
        (folder / f"train/cat/{number:04}.jpg").write_bytes(picture(number % 9, (400, 300)))
    command = [*APP, "check-data", str(folder), "--processes", "2"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while not (list(cache.rglob("*-check.jsonl")) and journal(cache).read_text().count("\n") >= 1):
        assert time.monotonic() < end
        time.sleep(0.002)
    process.send_signal(how)
    output, stderr = process.communicate(timeout=20)
    assert process.returncode == 75, stderr
    *progress, last = stderr.splitlines()
    assert "the same command continues" in last
    # There is a warning if this Pillow lacks a fix, and there are lines of progress if decoding is slow.
    assert all(line.startswith(("warning: Pillow-SIMD", "check-data: ")) for line in progress)
    assert output == ""
    done = journal(cache).read_text().splitlines()
    assert 1 <= len(done) < 6  # some chunks of images are in the journal, but not all
    assert report_of(capsys, folder)["trainable"]
    assert set(done) <= set(journal(cache).read_text().splitlines())


def test_index_of_the_start_is_kept(folder: Path, cache: Path) -> None:
    make_old(folder)
    succeed("check-data", folder)
    [kept] = cache.rglob("*-index.npz")
    when = kept.stat().st_mtime_ns
    assert len(read_index(str(folder)).train) == 2 * TRAIN
    assert kept.stat().st_mtime_ns == when


def test_without_a_place_for_the_cache(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    succeed("check-data", folder)


BAD_ARGUMENTS = {
    "no folder given": ([], "the following arguments are required: DIR"),
    "unknown option": (["{data}", "--jsn"], "did you mean --json"),
    "no processes": (["{data}", "--processes", "0"], "--processes is 0: give 1 or more"),
    "processes of words": (["{data}", "--processes", "many"], "invalid int value"),
    "skip list in no folder": (["{data}", "--skip-list", "{data}/no/skip.txt"], "cannot write the skip list"),
    "skip list is a folder": (["{data}", "--skip-list", "{data}"], "cannot write the skip list"),
}


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_bad_arguments_end_in_one_line(name: str, folder: Path) -> None:
    argv, says = BAD_ARGUMENTS[name]
    assert says in failure_of("check-data", *(part.format(data=folder) for part in argv))


def source(folder: Path, skip_list: Path, data: str = "") -> Source:
    return open_source(data or str(folder), skip_list=str(skip_list))


def test_skip_list_leaves_out_these_images_alone(folder: Path, tmp_path: Path) -> None:
    skip_list = tmp_path / "skip.txt"
    skip_list.write_text("# why not\n\ntrain/cat/1.JPEG\n  val/dog/0.JPEG  \ntrain/cat/1.JPEG\n")
    whole, less = read_index(str(folder)), source(folder, skip_list)
    assert less.skipped == 2
    assert less.classes == whole.classes
    paths = [less.train.files.path(index) for index in range(len(less.train))]  # type: ignore[attr-defined]
    assert paths == [str(folder / f"train/{c}/{i}.JPEG") for c in CLASSES for i in range(TRAIN) if (c, i) != ("cat", 1)]
    assert less.train.labels.tolist() == [0] * (TRAIN - 1) + [1] * TRAIN
    assert less.validation.labels.tolist() == [0] * VALIDATION + [1] * (VALIDATION - 1)
    assert less.fingerprint != whole.fingerprint
    skip_list.write_text("# nothing\n")
    assert source(folder, skip_list).skipped == 0


BAD_LISTS = {
    "no such file": (None, "cannot read --skip-list"),
    "of other data": ("train/cow/1.JPEG\n", "names images that are not there, train/cow/1.JPEG: run check-data again"),
    "absolute paths": ("{data}/train/cat/1.JPEG\n", "names images that are not there"),
    "a whole class": ("".join(f"train/cat/{i}.JPEG\n" for i in range(TRAIN)), "leaves no image for cat"),
    "all of the validation": (
        "".join(f"val/{c}/{i}.JPEG\n" for c in CLASSES for i in range(VALIDATION)), "leaves no image for the validation"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_LISTS)
def test_bad_skip_lists(name: str, folder: Path, tmp_path: Path) -> None:
    content, says = BAD_LISTS[name]
    if content is not None:
        (tmp_path / "skip.txt").write_text(content.format(data=folder))
    with pytest.raises(UserError, match=says):
        source(folder, tmp_path / "skip.txt")


def test_skip_list_is_for_folders(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--skip-list is for images in a folder: leave it out with --data digits"):
        source(folder, tmp_path / "skip.txt", "digits")
