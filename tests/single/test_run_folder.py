"""Which folder a run takes."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from app.base.errors import UserError
from app.recipe.config import Config
from app.runs import run_folder


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def leave_run(folder: Path, config: Config, *files: str) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(asdict(config)))
    for name in files:
        (folder / name).touch()


def test_a_new_run_gets_a_name_of_its_own() -> None:
    first = run_folder.find_folder(Config())
    first.mkdir(parents=True)
    assert first.parent == Path("runs") and first.name.startswith("digits-")
    assert run_folder.find_folder(Config()) != first


def test_the_same_command_goes_on_after_a_preemption() -> None:
    leave_run(Path("runs/a"), Config(), "preempted")
    leave_run(Path("runs/b"), Config(seed=1), "preempted")
    leave_run(Path("runs/c"), Config())
    assert run_folder.find_folder(Config()) == Path("runs/a")
    assert run_folder.find_folder(Config(seed=1)) == Path("runs/b")
    assert run_folder.find_folder(Config(seed=2)).name.startswith("digits-")
    assert run_folder.find_folder(Config(log_every=3)) == Path("runs/a")  # free options may differ


def test_output_goes_on_with_an_unfinished_run_of_the_same_recipe_only() -> None:
    leave_run(Path("x"), Config())
    assert run_folder.find_folder(Config(output="x")) == Path("x")
    with pytest.raises(UserError, match=r"--seed was 0, now 1 .*--allow-change seed"):
        run_folder.find_folder(Config(output="x", seed=1))
    assert run_folder.find_folder(Config(output="x", seed=1, allow_change=("seed",))) == Path("x")
    (Path("x") / "result.json").touch()
    with pytest.raises(UserError, match="holds a finished run"):
        run_folder.find_folder(Config(output="x"))


def test_resume_auto_takes_the_run_last_written_to() -> None:
    with pytest.raises(UserError, match="there is no run"):
        run_folder.resumed_folder("auto")
    for number, name in enumerate(("old", "new", "older")):
        leave_run(Path("runs") / name, replace(Config(), seed=number), "log.jsonl")
        os.utime(Path("runs") / name / "log.jsonl", (0, {"old": 200, "new": 300, "older": 100}[name]))
    assert run_folder.resumed_folder("auto") == Path("runs/new")


def test_a_folder_belongs_to_one_run_at_a_time() -> None:
    lock = run_folder.claim(Path("x"), patience=0)
    with pytest.raises(UserError, match="being written by another run"):
        run_folder.claim(Path("x"), patience=0.2)
    lock.close()
    run_folder.claim(Path("x"), patience=0).close()
    Path("file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        run_folder.claim(Path("file/run"), patience=0)
