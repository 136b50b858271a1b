"""Folders of images with faults. check-data reports each fault. Training continues, or ends with one line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import pytest

from tests.support.bad_folders import BAD_FOLDERS, TRAIN, good_folder
from tests.support.fork_server import start_app
from tests.support.in_process import run_command

AT_ONCE = 2  # training runs at the same time
SMALL = [
    "--image-size", "32", "--resize", "32", "--model", "resnet8", "--width", "4", "--epochs", "1", "--device", "cpu",
    "--minibatch", str(2 * TRAIN), "--per-worker", str(2 * TRAIN), "--loader-processes", "0",
]  # fmt: skip


def train_each(folders: dict[str, Path], options: dict[str, list[str]]) -> dict[str, tuple[int, str, Path]]:
    """Train on each folder in a process of its own. Return the exit code, standard error and folder of each run."""
    logs = {name: folder.with_name(f"run-{folder.name}-log") for name, folder in folders.items()}
    outputs = {name: folder.with_name(f"run-{folder.name}") for name, folder in folders.items()}
    codes: dict[str, int] = {}
    for pair in zip_longest(*[iter(folders)] * AT_ONCE):
        started = {
            name: start_app(
                "train", "--data", folders[name], "--output", outputs[name], *SMALL, *options[name], log=logs[name]
            )
            for name in pair
            if name is not None
        }
        codes |= {name: child.wait() for name, child in started.items()}
    return {name: (codes[name], Path(f"{logs[name]}.err").read_text(), outputs[name]) for name in folders}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("folders")
    made = {name: good_folder(base / f"data{number}") for number, name in enumerate(BAD_FOLDERS)}
    for name, case in BAD_FOLDERS.items():
        case.spoil(made[name])
    return made


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def trained(folders: dict[str, Path]) -> dict[str, tuple[int, str, Path]]:
    return train_each(folders, {name: [] for name in folders})


@pytest.mark.parametrize("name", BAD_FOLDERS)
def test_check_data_tells(name: str, folders: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    case = BAD_FOLDERS[name]
    code, line = run_command("check-data", folders[name], "--json", "--processes", 1)
    assert (code, case.says in line) == (case.check, True), line
    output = capsys.readouterr().out
    if code == 2:
        assert output == ""
        return
    report = json.loads(output)
    assert {finding["kind"] for finding in report["findings"]} == case.kinds
    assert report["trainable"] == (code == 0)
    assert run_command("check-data", folders[name])[0] == code  # the same exit code without --json
    text = capsys.readouterr().out
    assert all(f"  {kind}: " in text for kind in case.kinds)
    text.encode()


@pytest.mark.parametrize("name", BAD_FOLDERS)
def test_training_ends_in_one_line_or_goes_on(
    name: str, folders: dict[str, Path], trained: dict[str, tuple[int, str, Path]]
) -> None:
    case, (code, stderr, run) = BAD_FOLDERS[name], trained[name]
    assert code == case.train, stderr
    assert "Traceback" not in stderr and "Warning" not in stderr
    assert case.train_says in stderr
    assert len(stderr.splitlines()) == (code != 0)
    assert (run / "result.json").exists() == (code == 0)


def test_training_warns_once_of_files_that_it_does_not_read(trained: dict[str, tuple[int, str, Path]]) -> None:
    warnings = {
        name: [line for line in Path(f"{run}-log.out").read_text().splitlines() if line.startswith("warning: ")]
        for name, (code, _, run) in trained.items()
        if code == 0
    }
    [line] = warnings.pop("files of other names")
    assert "6 files are not read" in line and "train/cat/x.jf" in line
    assert [line.split(" files")[0] for line in warnings.pop("other files beside")] == ["warning: 1"]
    assert not any(warnings.values())


def test_check_data_names_each_file_that_is_not_read(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run_command("check-data", folders["files of other names"], "--json")
    findings = json.loads(capsys.readouterr().out)["findings"]
    others = ("train/cat/x.jfif", "train/cat/x.jpe", "train/dog/noext", "val/dog/y.webp")
    assert {(finding["path"], finding["detail"]) for finding in findings} == {
        ("train/flat.jpg", "not in the folder of a class"),
        ("train/gone", "a broken link"),
        *((path, "another ending") for path in others),
    }


def test_check_data_lists_all_links_that_lead_nowhere(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run_command("check-data", folders["links to nowhere"], "--json")
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert [finding["detail"] for finding in findings] == ["a broken link"] * 2 * TRAIN


def test_what_check_data_stops_on_is_what_training_stops_on() -> None:
    assert len(BAD_FOLDERS) >= 30
    assert all((case.check == 0) == (case.train == 0) for case in BAD_FOLDERS.values())


def test_with_the_skip_list_training_goes_on(folders: dict[str, Path], tmp_path: Path) -> None:
    """A run with --skip-list leaves out images of every kind that would stop it."""
    folder, skip_list = good_folder(tmp_path / "data"), tmp_path / "skip.txt"
    bad = []
    for name, case in BAD_FOLDERS.items():
        if case.train == 3 and "/" in case.train_says:
            split, label, file = case.train_says.split("/")
            bad.append(f"{split}/{label}/bad{len(bad)}-{file}")
            (folder / bad[-1]).write_bytes((folders[name] / case.train_says).read_bytes())
    assert run_command("check-data", folder, "--skip-list", skip_list)[0] == 1
    assert sorted(line for line in skip_list.read_text().splitlines() if line[0] != "#") == sorted(bad)
    [(code, stderr, run)] = train_each({"": folder}, {"": ["--skip-list", str(skip_list), "--epochs", "2"]}).values()
    assert code == 0, stderr
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["skipped_images"] for line in lines if line["kind"] == "eval"] == [len(bad)] * 2
    output = Path(f"{run}-log.out").read_text()
    assert f"skipped: {len(bad)} images, which are listed in {skip_list}" in output
    assert output.count(f"({len(bad)} images skipped)") == 2
    assert json.loads((run / "plan.json").read_text())["images"] == 2 * TRAIN
