"""What a resume depends on survives a power failure: it is synced to the disk before another file refers to it."""

import os
from pathlib import Path
from typing import Any

import pytest

from app.base.files import write_whole
from tests.support.in_process import succeed

Event = tuple[str, str]  # "sync" or "rename", and the name of the file or folder


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """Return a list to which each os.fsync() and os.replace() of this process is appended when it has succeeded."""
    seen: list[Event] = []
    sync, replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        sync(descriptor)
        seen.append(("sync", Path(f"/proc/self/fd/{descriptor}").readlink().name))

    def rename(source: Any, destination: Any) -> None:
        replace(source, destination)
        seen.append(("rename", Path(destination).name))

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", rename)
    return seen


def test_a_file_is_synced_before_it_replaces_another_and_its_folder_after(tmp_path: Path, events: list[Event]) -> None:
    write_whole(tmp_path / "x", lambda file: file.write(b"new"))
    assert events == [("sync", "x.tmp"), ("rename", "x"), ("sync", tmp_path.name)]


def test_the_log_is_synced_before_each_checkpoint(tmp_path: Path, events: list[Event]) -> None:
    """A run that continues from a checkpoint does not log the steps before it again."""
    succeed("train", "--epochs", 1, "--width", 4, "--checkpoint-every", 2, "--output", tmp_path / "run")
    checkpoints = [name for kind, name in events if kind == "rename" and name.startswith("iteration-")]
    assert checkpoints[:4] == [f"iteration-{iteration:09}.pt" for iteration in (2, 4, 6, 8)]
    for number, name in enumerate(checkpoints[:4], start=1):
        before = events[: events.index(("rename", name))]
        assert before.count(("sync", "log.jsonl")) >= number
        assert ("sync", f"{name}.tmp") in before
        following = events[len(before) + 1 :]
        assert following.index(("sync", "checkpoints")) < following.index(("rename", "last.pt"))
