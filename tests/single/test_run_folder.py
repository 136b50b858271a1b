"""The choice of a run's folder, and its lock, which only one run can hold at a time."""

import contextlib
import errno
import json
import multiprocessing
import os
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from app.base.errors import UserError
from app.recipe.config import Config
from app.runs import folder_lock, run_folder
from app.runs.folder_lock import FolderLock, lock_folder


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
    assert run_folder.find_folder(Config(log_every=3)) == Path("runs/a")  # a run with another --log-every is continued


def test_output_goes_on_with_an_unfinished_run_of_the_same_recipe_only() -> None:
    leave_run(Path("x"), Config())
    assert run_folder.find_folder(Config(output="x")) == Path("x")
    with pytest.raises(UserError, match=r"--seed was 0, now 1 .*--allow-change seed"):
        run_folder.find_folder(Config(output="x", seed=1))
    assert run_folder.find_folder(Config(output="x", seed=1, allow_change=("seed",))) == Path("x")
    (Path("x") / "result.json").touch()
    with pytest.raises(UserError, match="contains a finished run"):
        run_folder.find_folder(Config(output="x"))


def test_resume_auto_takes_the_run_last_written_to() -> None:
    with pytest.raises(UserError, match="there is no run"):
        run_folder.resumed_folder("auto")
    for number, name in enumerate(("old", "new", "older")):
        leave_run(Path("runs") / name, replace(Config(), seed=number), "log.jsonl")
        os.utime(Path("runs") / name / "log.jsonl", (0, {"old": 200, "new": 300, "older": 100}[name]))
    assert run_folder.resumed_folder("auto") == Path("runs/new")


def test_a_folder_belongs_to_one_run_at_a_time() -> None:
    lock = lock_folder(Path("x"), patience=0)
    with pytest.raises(UserError, match="being written by another run"):
        lock_folder(Path("x"), patience=0.2)
    lock.close()
    lock_folder(Path("x"), patience=0).close()
    assert not Path("x").exists()  # an empty folder is removed
    Path("file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        lock_folder(Path("file/run"), patience=0)


def test_a_check_of_the_folder_leaves_nothing() -> None:
    run_folder.check_folder(Config(output="x"))
    assert not Path("x").exists()
    leave_run(Path("x"), Config())
    run_folder.check_folder(Config(output="x"))
    run_folder.check_folder(Config(resume="x"))
    lock_folder(Path("x"), patience=0).close()


def test_what_was_there_before_a_lock_stays() -> None:
    for content in ([], ["notes"]):
        Path("there").mkdir(exist_ok=True)
        for name in content:
            (Path("there") / name).touch()
        lock_folder(Path("there"), patience=0).close()
        assert [path.name for path in Path("there").iterdir() if path.name != "lock"] == content


def test_a_lock_that_its_owner_has_removed_is_taken_again() -> None:
    first = lock_folder(Path("x"), patience=0)
    taken: list[FolderLock] = []
    waiting = threading.Thread(target=lambda: taken.append(lock_folder(Path("x"), patience=20)))
    waiting.start()
    time.sleep(0.3)  # the thread now waits for the lock
    first.close()
    waiting.join()
    with pytest.raises(UserError, match="being written by another run"):
        lock_folder(Path("x"), patience=0)
    taken[0].close()


def test_a_folder_that_another_process_removes_is_made_again() -> None:
    folder, ended = Path("x"), threading.Event()

    def remove() -> None:
        while not ended.is_set():
            with contextlib.suppress(OSError):
                (folder / "lock").unlink()
                folder.rmdir()

    removing = threading.Thread(target=remove)
    removing.start()
    try:
        for _ in range(3000):
            folder_lock._open_lock(folder).close()
    finally:
        ended.set()
        removing.join()


def no_locks(*_: object) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


def test_a_file_system_without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_lock.fcntl, "flock", no_locks)
    monkeypatch.setattr(folder_lock, "TICK", 0.1)
    monkeypatch.setattr(folder_lock, "LIFE", 1.0)
    first = lock_folder(Path("x"), patience=0)
    with pytest.raises(UserError, match="being written by another run"):
        lock_folder(Path("x"), patience=0)
    first.close()
    assert not Path("x").exists()
    Path("x").mkdir()
    (Path("x") / "owner").write_text("some host 123 and an end without a close")
    lock_folder(Path("x"), patience=0).close()
    assert list(Path("x").iterdir()) == []


def test_a_closed_lock_does_not_change_the_file_of_the_next_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that writes the owner's file is in the middle of a write when the lock is closed."""
    monkeypatch.setattr(folder_lock.fcntl, "flock", no_locks)
    monkeypatch.setattr(folder_lock, "TICK", 0.1)
    write, writing = folder_lock._Owner._write, threading.Event()

    def write_slowly(owner: folder_lock._Owner, number: int) -> None:
        if number > 0:
            writing.set()
            time.sleep(0.5)
        write(owner, number)

    monkeypatch.setattr(folder_lock._Owner, "_write", write_slowly)
    first = lock_folder(Path("x"), patience=0)
    assert writing.wait(20)
    first.close()
    assert not Path("x").exists()
    Path("x").mkdir()
    (Path("x") / "owner").write_text("another process")
    time.sleep(1.5)
    assert (Path("x") / "owner").read_text() == "another process"


def test_claims_at_the_same_moment_on_a_file_system_without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """All claims have seen that there is no owner before they write its file. The last one to write gets the folder."""
    monkeypatch.setattr(folder_lock.fcntl, "flock", no_locks)
    monkeypatch.setattr(folder_lock, "TICK", 2.0)  # on a busy machine, the claims may write at different times
    fork = multiprocessing.get_context("fork")
    together, answers = fork.Barrier(4, timeout=20), fork.Queue()
    write = folder_lock._Owner._write

    def write_together(owner: folder_lock._Owner, number: int) -> None:
        if number == 0:
            together.wait()
        write(owner, number)

    monkeypatch.setattr(folder_lock._Owner, "_write", write_together)

    def claim() -> None:
        try:
            lock_folder(Path("x"), patience=0)
            answers.put("locked")
            time.sleep(5)  # the others find that the folder is used
        except UserError as error:
            answers.put(str(error))

    claims = [fork.Process(target=claim, daemon=True) for _ in range(4)]
    for process in claims:
        process.start()
    said = sorted(answers.get(timeout=30) for _ in claims)
    for process in claims:
        process.join()
    assert said[0] == "locked"
    assert all(text.startswith("x is being written by another run") for text in said[1:])
