"""A run with a damaged checkpoint continues from the checkpoint before it, or ends with one line.

It never starts from the beginning without a message.
"""

import contextlib
import io
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from app.base.errors import UserError
from app.runs import figures
from app.runs.layout import LAST_CHECKPOINT, numbered
from app.training import checkpoint, checkpoint_files
from app.training.checkpoint_files import read_newest, write
from tests.support.disks import small_disk
from tests.support.in_process import failure_of, run_command

OPTIONS = ["--epochs", "2", "--width", "4", "--device", "cpu", "--stall-timeout", "0"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train for two epochs of 8 steps. The run has checkpoints after 8 and 16 steps."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert run_command("train", "--output", folder, *OPTIONS) == (0, "")
    assert [path.name for path in numbered(folder)] == ["iteration-000000016.pt", "iteration-000000008.pt"]
    assert (folder / "checkpoints" / LAST_CHECKPOINT).samefile(numbered(folder)[0])
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """Return a copy of the trained run. Its last.pt is a hard link to the newest checkpoint, as in the original."""
    shutil.copytree(trained, tmp_path / "run")
    last = tmp_path / "run" / "checkpoints" / LAST_CHECKPOINT
    last.unlink()
    last.hardlink_to(numbered(tmp_path / "run")[0])
    return tmp_path / "run"


def truncated(share: float) -> Callable[[bytes], bytes]:
    return lambda whole: whole[: int(len(whole) * share)]


def flipped(seed: int) -> Callable[[bytes], bytes]:
    def flip(whole: bytes) -> bytes:
        changed = bytearray(whole)
        bit = random.Random(seed).randrange(8 * len(changed))
        changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed)

    return flip


def other(content: Any) -> Callable[[bytes], bytes]:
    def replace(_: bytes) -> bytes:
        buffer = io.BytesIO()
        torch.save(content, buffer)
        return buffer.getvalue()

    return replace


SHARES = (0, 0.01, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 0.999)
DAMAGES = {
    **{
        f"truncated to {share:.0%}": truncated(share)
        for share in (0, 0.01, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 0.999)
    },
    "no checkpoint of ours": other({"state_dict": {}}),
    "a list": other([1, 2]),
    "an older format": other({"format": 0, "model": {}}),
    "a module that may run code": lambda whole: b"cos\nsystem\n(S'true'\ntR.",
    "text": lambda whole: b"hello",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_the_one_before_is_taken_and_it_is_said(run: Path, damage: Callable[[bytes], bytes]) -> None:
    newest = numbered(run)[0]
    newest.write_bytes(damage(newest.read_bytes()))
    said: list[str] = []
    content = read_newest(run, said.append)
    assert content is not None and content["position"] == {"epoch": 1, "seen": 0}
    assert len(said) == 1 and newest.name in said[0] and "continuing from iteration-000000008.pt" in said[0]


def test_50_bit_flips_are_noticed_or_harmless(run: Path) -> None:
    newest = numbered(run)[0]
    whole = newest.read_bytes()
    expected = checkpoint.digest(checkpoint.read(newest))
    noticed = 0
    for seed in range(50):
        newest.write_bytes(flipped(seed)(whole))
        said: list[str] = []
        content = read_newest(run, said.append)
        assert content is not None
        if said:
            noticed += 1
            assert content["position"] == {"epoch": 1, "seen": 0}
        else:  # the changed bit is in a part of the file without data
            assert checkpoint.digest(content) == expected
    assert noticed > 25


def test_a_folder_in_its_place(run: Path) -> None:
    newest = numbered(run)[0]
    newest.unlink()
    newest.mkdir()
    (run / "checkpoints" / LAST_CHECKPOINT).unlink()
    said: list[str] = []
    assert read_newest(run, said.append) is not None and "is a folder" in said[0]


def test_no_permission(trained: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "run"
        shutil.copytree(trained, run)
        Path(name).chmod(0o755)
        (run / "checkpoints" / LAST_CHECKPOINT).unlink()
        numbered(run)[0].chmod(0)
        said: list[str] = []
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)  # root could read the file in spite of its mode
        try:
            content = read_newest(run, said.append)
        finally:
            os.seteuid(user)
    assert content is not None and "Permission denied" in said[0]


def test_none_that_can_be_used(run: Path) -> None:
    for path in numbered(run):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"no checkpoint of .* can be used: .*000016.* damaged.*000008.* damaged"):
        read_newest(run, print)


def test_only_last_is_left(run: Path) -> None:
    for path in numbered(run):
        path.unlink()
    content = read_newest(run, print)
    assert content is not None and content["position"] == {"epoch": 2, "seen": 0}


def unfinished(run: Path) -> Path:
    (run / "result.json").unlink()
    return run


def test_train_goes_on_from_the_one_before(run: Path, trained: Path, capfd: pytest.CaptureFixture[str]) -> None:
    numbered(unfinished(run))[0].write_bytes(b"damaged")
    assert run_command("train", "--resume", run, "--stall-timeout", "0") == (0, "")
    said = capfd.readouterr().out
    assert "iteration-000000016.pt is damaged" in said and "continuing at epoch 1" in said
    a, b = (checkpoint.read(folder / "checkpoints" / LAST_CHECKPOINT) for folder in (run, trained))
    assert all(torch.equal(a["model"][name], b["model"][name]) for name in b["model"])


def test_train_does_not_start_from_the_beginning(run: Path) -> None:
    for path in (*numbered(unfinished(run)), run / "checkpoints" / LAST_CHECKPOINT):
        path.write_bytes(b"")
    line = failure_of("train", "--resume", run, "--stall-timeout", "0")
    assert "no checkpoint of" in line and "can be used" in line


def test_another_models(run: Path, tmp_path: Path) -> None:
    assert run_command("train", "--output", tmp_path / "wide", *OPTIONS, "--width", "5") == (0, "")
    for path in (*numbered(unfinished(run)), run / "checkpoints" / LAST_CHECKPOINT):
        path.unlink()
    shutil.copy(tmp_path / "wide" / "checkpoints" / LAST_CHECKPOINT, run / "checkpoints" / LAST_CHECKPOINT)
    assert "another model" in failure_of("train", "--resume", run, "--stall-timeout", "0")


def test_other_data(run: Path) -> None:
    path = numbered(unfinished(run))[0]
    content = checkpoint.read(path)
    (run / "checkpoints" / LAST_CHECKPOINT).unlink()
    write({**content, "fingerprint": "0" * 16}, path)
    line = failure_of("train", "--resume", run, "--stall-timeout", "0")
    assert "other images" in line and "--allow-change data" in line


def test_another_recipe_is_named_and_can_be_allowed(run: Path) -> None:
    changes = ["--weight-decay", "0.001", "--minibatch", "256"]
    line = failure_of("train", "--resume", unfinished(run), *changes)
    assert "--weight-decay was 0.0001, now 0.001" in line and "--minibatch was 128, now 256" in line
    assert "--allow-change minibatch,weight_decay" in line
    numbered(run)[0].unlink()
    allowed = ["--allow-change", "minibatch,weight-decay", "--stall-timeout", "0"]
    assert run_command("train", "--resume", run, *changes, *allowed) == (0, "")


def test_what_may_differ_freely_does(run: Path) -> None:
    free = ["--loader-processes", "1", "--log-every", "3", "--keep", "1", "--stall-timeout", "0"]
    numbered(unfinished(run))[0].unlink()
    (run / "checkpoints" / LAST_CHECKPOINT).unlink()
    assert run_command("train", "--resume", run, *free) == (0, "")
    # --keep 1 keeps only the newest checkpoint.
    assert [path.name for path in numbered(run)] == ["iteration-000000016.pt"]


def test_a_finished_run_is_not_trained_again(trained: Path) -> None:
    assert "contains a finished run" in failure_of("train", "--output", trained, *OPTIONS)


@pytest.fixture
def small(tmp_path: Path, trained: Path) -> Iterator[Path]:
    """Yield a file system with space for one checkpoint but not for two. Remove its file `ballast` to make space."""
    size = numbered(trained)[0].stat().st_size
    with small_disk(tmp_path / "small", str(int(2.7 * size) + 400_000)) as small:
        (small / "ballast").write_bytes(bytes(size + 380_000))
        yield small


def test_a_disk_that_stays_full(small: Path, capfd: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    """The run prints its result and keeps the last good checkpoint. The same command continues when there is space."""
    monkeypatch.setattr(checkpoint_files, "PATIENCE", 2.0)
    run = small / "run"
    line = failure_of("train", "--output", run, *OPTIONS, code=1)
    assert "the last checkpoint could not be written" in line and "No space left on device" in line
    found = capfd.readouterr().out
    assert "could not be written (No space left on device); the last good one is" in found, found
    assert found.index("result: top-1 error") < found.index("waiting for up to 2 s until some space is freed")
    assert checkpoint.read(run / "checkpoints" / LAST_CHECKPOINT)["position"] == {"epoch": 1, "seen": 0}
    assert not list(run.rglob("*.tmp")) and not (run / "result.json").exists()
    (small / "ballast").unlink()
    assert run_command("train", "--output", run, *OPTIONS) == (0, "")
    assert checkpoint.read(run / "checkpoints" / LAST_CHECKPOINT)["position"] == {"epoch": 2, "seen": 0}


def test_a_disk_on_which_space_is_freed(small: Path, monkeypatch: Any) -> None:
    wait = checkpoint_files.wait_for_space
    monkeypatch.setattr(checkpoint_files, "PATIENCE", 20.0)

    def free_some(write: Any, seconds: float, say: Any) -> None:
        wait(write, seconds, lambda text: (small / "ballast").unlink())

    monkeypatch.setattr(checkpoint_files, "wait_for_space", free_some)
    assert run_command("train", "--output", small / "run", *OPTIONS) == (0, "")
    content = checkpoint.read(small / "run" / "checkpoints" / LAST_CHECKPOINT)
    assert content["position"] == {"epoch": 2, "seen": 0} and (small / "run/result.json").exists()


def test_going_on_with_a_full_disk(small: Path, trained: Path) -> None:
    """Resuming on a full disk ends with one line and changes no file. The run continues when there is space."""
    (small / "ballast").unlink()
    run = small / "run"
    shutil.copytree(trained, run, ignore=shutil.ignore_patterns("tensorboard", "result.json", "iteration-*"))
    # The last checkpoint is replaced by that of an earlier epoch, so that training goes on from there.
    (run / "checkpoints" / LAST_CHECKPOINT).write_bytes(numbered(trained)[1].read_bytes())
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with contextlib.suppress(OSError), (small / "ballast").open("wb", buffering=0) as ballast:
        while True:
            ballast.write(bytes(4096))
    line = failure_of("train", "--resume", run, "--stall-timeout", "0")
    assert "cannot be written: No space left on device: free some space there" in line
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    (small / "ballast").unlink()
    assert run_command("train", "--resume", run, "--stall-timeout", "0") == (0, "")


def test_a_disk_that_is_full_before_the_result(tmp_path: Path, capfd: Any, monkeypatch: Any) -> None:
    """The last checkpoint can be written, but neither the last picture nor result.json. The result is printed."""
    monkeypatch.setattr(checkpoint_files, "PATIENCE", 0.0)

    def fail(*_: object) -> None:
        raise ValueError("no picture")

    monkeypatch.setattr(figures, "confusion_figure", fail)
    run = tmp_path / "run"
    run.mkdir()
    (run / "result.json.tmp").symlink_to("/dev/full")
    words = ["train", "--output", run, *OPTIONS, "--epochs", "1"]
    line = failure_of(*words, code=1)
    assert line.startswith(f"the last result.json could not be written to {run} (No space left on device): free some")
    said = capfd.readouterr().out
    assert "result: top-1 error" in said and "tensorboard could not be written (ValueError: no picture)" in said
    assert not list(run.rglob("*.tmp")) and not (run / "result.json").exists()
    assert run_command(*words) == (0, "")
    shown = capfd.readouterr().out
    assert result_in(shown) == result_in(said) and (run / "result.json").exists()


def result_in(shown: str) -> str:
    return next(line for line in shown.splitlines() if line.startswith("result: "))


def test_a_refused_start_leaves_no_folder(trained: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """The weights are read when the folder of the run is made and locked already."""
    monkeypatch.chdir(tmp_path)
    line = failure_of("train", "--init", trained, "--width", "8", "--device", "cpu", "--stall-timeout", "0")
    assert "conv1" in line
    assert (tmp_path / "runs").is_dir() and not list(tmp_path.glob("runs/*"))


def test_tensorboard_files_that_cannot_be_written_cost_no_run(tmp_path: Path, capfd: Any) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/tensorboard").touch()
    assert run_command("train", "--output", tmp_path / "run", *OPTIONS, "--epochs", "1") == (0, "")
    found = capfd.readouterr().out
    assert f"warning: {tmp_path / 'run/tensorboard'} could not be written" in found and "result: top-1 error" in found
