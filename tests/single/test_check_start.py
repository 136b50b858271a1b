"""The launcher refuses bad input before it starts ranks, with the message that the ranks would print."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from app import start
from app.base.errors import UserError
from app.commands import train
from app.data.sources import DataSize
from app.recipe.config import from_dict, to_json
from app.recipe.data_size import data_size
from app.recipe.presets import preset
from app.runs import run_folder
from app.runs.folder_lock import lock_folder
from app.trained.checkpoint_facts import CheckpointFacts, newest_facts, read_facts
from tests.support.in_process import succeed

SMALL = ["train", "--minibatch", "4", "--per-worker", "2"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder with ten images of two classes in each split."""
    for name in ("train/cat", "train/dog", "val/cat", "val/dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (8, 8)).save(tmp_path / "data" / name / f"{number}.jpg")
    return tmp_path / "data"


def refusal(words: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    assert start.main(words) == 2
    said = capfd.readouterr()
    assert said.out == ""
    return said.err


def remove_class(folder: Path) -> None:
    for path in (folder / "val/cat").iterdir():
        path.unlink()
    (folder / "val/cat").rmdir()


@pytest.mark.parametrize("launcher", [[], ["--launcher", "mpirun"]])
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: folder.rename(folder.with_name("moved")), "no such data folder: {folder}"),
        (
            lambda folder: (folder / "train").rename(folder / "test"),
            "{folder} has no train/; expected train/CLASS/*.jpg and val/CLASS/*.jpg, or archives (see docs/data.md)",
        ),
        (
            remove_class,
            "the classes of {folder} differ: val/ lacks cat; train/ and val/ need the same folders",
        ),
    ],
)
def test_a_wrong_folder(
    spoil: Callable[[Path], object],
    said: str,
    launcher: list[str],
    folder: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    spoil(folder)
    words = [*launcher, *SMALL, "--data", str(folder)]
    assert refusal(words, capfd) == f"error: {said.format(folder=folder)}\n"


def test_without_a_launcher(folder: Path) -> None:
    """The command runs in a separate process, because it would replace the process of the test."""
    folder.rename(folder.with_name("moved"))
    command = [sys.executable, "-m", "app.start", "--launcher", "none", *SMALL, "--data", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: no such data folder: {folder}\n")


def test_the_folder_of_an_evaluation(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    remove_class(folder)
    said = refusal(["evaluate", str(folder), "--data", str(folder)], capfd)
    assert said == f"error: the classes of {folder} differ: val/ lacks cat; train/ and val/ need the same folders\n"


def test_a_folder_that_a_config_file_names(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = folder.with_name("config.json")
    config.write_text(json.dumps({"data": str(folder), "minibatch": 12, "per_worker": 2}))
    said = refusal(["train", "--config", str(config)], capfd)
    assert said == "error: --minibatch 12 is larger than the data: 10 training images; give a smaller one\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-np", "3", *SMALL], "error: 3 processes are more than the k = 2 workers (kn = 4, n = 2): start"),
        (["train", "--image-size", "9"], "error: the images of digits are 8 x 8: leave --image-size out, or give 8\n"),
        (["benchmark", "--minibatch", "4096"], "error: --minibatch 4096 is larger than the data: 1077 training images"),
        (["train", "--data", "mnist", "--data-root", "/none"], "error: the files of mnist are not in /none/mnist or"),
        (["train", "--data", "mnist", "--downsample", "3"], "error: --downsample 3 does not divide the side of 28 pix"),
        (["train", "--model", "resnet5"], "error: --model is resnet5: did you mean resnet50?\n"),
        (
            ["evaluate", "/no/net.pt"],
            "error: there is no /no/net.pt: give a run's folder, a checkpoint or a state_dict\n",
        ),
        *(
            (
                [*words, "--device", "cpu"],
                f"error: --collectives nccl needs a GPU and {socket.gethostname()} uses none: give",
            )
            for words in (["train", "--collectives=nccl"], ["benchmark", "--collectives", "nccl"])
        ),
        (["train", "--skip-list", "x"], "error: --skip-list is for images in a folder: leave it out with --data dig"),
    ],
)
def test_options_that_do_not_fit(words: list[str], said: str, capfd: pytest.CaptureFixture[str]) -> None:
    found = refusal(words, capfd)
    assert found.startswith(said) and found.count("\n") == 1


def make_run(folder: Path, **changed: object) -> Path:
    """Make a folder that looks like an unfinished run of `train` with other options than the default ones."""
    folder.mkdir()
    (folder / "config.json").write_text(to_json(replace(from_dict(preset("digits")), **changed)))  # type: ignore[arg-type]
    return folder


@pytest.mark.parametrize("launcher", [[], ["--launcher", "mpirun"]])
def test_the_folder_of_a_run(
    launcher: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_folder, "PATIENCE", 0.0)

    def said(*words: object) -> str:
        return refusal([*launcher, "train", *map(str, words)], capfd)

    run = make_run(tmp_path / "run", seed=3)
    assert said("--output", run) == (
        f"error: the run in --output {run} is of another recipe: --seed was 3, now 0 (to continue anyway:"
        " --allow-change seed)\n"
    )
    lock = lock_folder(run, patience=0)
    for words in (["--resume", run], ["--output", run, "--seed", "3"]):
        assert said(*words) == (
            f"error: {run} is being written by another run: wait until it has ended, or start a new run with another"
            " --output\n"
        )
    lock.close()
    (run / "result.json").touch()
    assert said("--output", run) == f"error: --output {run} contains a finished run: name another folder\n"
    assert said("--output", run / "result.json/x") == (
        f"error: {run}/result.json/x cannot be written: Not a directory; name another folder with --output\n"
    )


def test_the_folder_of_a_run_on_another_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Only the host of rank 0 has the folder of the run."""
    (make_run(tmp_path / "run") / "result.json").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    words = ["train", "--output", str(tmp_path / "run")]
    assert "there is no ssh on the PATH" in refusal(["-H", "192.0.2.1:1,localhost:1", *words], capfd)
    assert "contains a finished run" in refusal(["-H", "localhost:1,192.0.2.1:1", *words], capfd)


def test_weights_that_cannot_be_evaluated(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", data=str(folder))
    weights = tmp_path / "net.pt"
    weights.touch()
    facts = {"classes": ["cat", "dog"], "image_size": 8, "resize": 8, "mean": [0.5], "std": [0.25]}
    (tmp_path / "net.pt.json").write_text(json.dumps(facts))
    no_averages = "error: there are no averaged weights, because the run had no --ema: leave --ema out\n"
    assert refusal(["evaluate", str(run), "--ema"], capfd) == no_averages
    assert refusal(["evaluate", str(weights), "--ema"], capfd) == no_averages
    assert refusal(["evaluate", str(weights)], capfd).startswith(
        "error: the weights do not say on which data they were"
    )
    assert refusal(["evaluate", str(run), "--output", f"{weights}/x"], capfd) == (
        f"error: --output {weights}/x cannot be written: Not a directory; give another folder\n"
    )
    folder.rename(folder.with_name("moved"))
    assert refusal(["evaluate", str(run)], capfd) == f"error: no such data folder: {folder}\n"


def test_other_hosts_look_for_their_data_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """If no rank runs on this machine, its data are not checked. The start fails at the next check, for ssh."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "there is no ssh on the PATH" in refusal(["-H", "192.0.2.1:1", "train", "--data", "/nowhere"], capfd)
    assert "no such data folder" in refusal(["-H", "192.0.2.1:1,localhost:1", "train", "--data", "/nowhere"], capfd)


def test_a_folder_that_is_called_imagenet(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe for ImageNet is planned for the folder of this name, if there is one, or else for ImageNet-1k."""
    monkeypatch.chdir(folder.parent)
    config = from_dict(preset("paper-256"))
    assert config.data == "imagenet"
    assert data_size(config) == DataSize(1_281_167, 50_000, 1000, 3, 224)
    folder.rename("imagenet")
    assert data_size(config) == DataSize(10, 10, 2, 3, 224)


def test_an_export_with_other_classes(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    weights = tmp_path / "net.pt"
    weights.touch()
    facts = {"classes": ["cat", "emu"], "image_size": 8, "resize": 8, "mean": [0.5], "std": [0.25]}
    (tmp_path / "net.pt.json").write_text(json.dumps(facts))
    said = refusal(["evaluate", str(weights), "--data", str(folder)], capfd)
    assert said == (
        f"error: {folder} has other classes than the network was trained on: number 1 is dog, but it was emu\n"
    )
    facts["classes"] = ["cat", "dog", "emu"]
    (tmp_path / "net.pt.json").write_text(json.dumps(facts))
    said = refusal(["evaluate", str(weights), "--data", str(folder)], capfd)
    assert said == f"error: {folder} has 2 classes, but the network was trained on 3\n"


def test_a_checkpoint_of_other_classes(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    options = [*SMALL, "--width", "4", "--epochs", "1", "--image-size", "8", "--resize", "8", "--model", "resnet8"]
    succeed(*options, "--data", folder, "--output", run)
    capfd.readouterr()
    shutil.copytree(folder, other)
    for split in ("train", "val"):
        (other / split / "dog").rename(other / split / "emu")
    said = f"error: {other} has other classes than the network was trained on: number 1 is emu, but it was dog\n"
    for weights in (run, run / "checkpoints/last.pt"):
        assert refusal(["evaluate", str(weights), "--data", str(other)], capfd) == said
        assert refusal(["evaluate", str(weights), "--ema"], capfd).startswith("error: there are no averaged weights")
    folder.rename(folder.with_name("moved"))
    said = refusal(["evaluate", str(run / "checkpoints/last.pt")], capfd)
    assert said == f"error: no such data folder: {folder}\n"


def test_a_run_with_other_images_and_weights_of_another_network(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    images = ["--data", str(folder), "--image-size", "8", "--resize", "8"]
    options = [*SMALL, "--width", "4", "--epochs", "1", *images, "--model", "resnet8"]
    succeed(*options, "--output", run)
    capfd.readouterr()
    for weights in (run, run / "checkpoints/last.pt"):
        for name, theirs, ours in (("model", "resnet8", "resnet14"), ("width", "4", "8")):
            said = refusal([*options, f"--{name}", ours, "--init", str(weights)], capfd)
            advice = f"give --{name} {theirs}"
            assert said == f"error: --init {weights} was trained with --{name} {theirs}, not {ours}: {advice}\n"
    (run / "result.json").unlink()
    Image.new("RGB", (9, 9)).save(folder / "train/cat/0.jpg")
    said = re.sub("[0-9a-f]{16}", "FINGERPRINT", refusal(["train", "--resume", str(run)], capfd))
    assert said == (
        f"error: the checkpoint in {run} was trained on other images than those in {folder} (fingerprint FINGERPRINT,"
        " now FINGERPRINT): to continue anyway, give --allow-change data\n"
    )


def write_checkpoint(path: Path, **content: object) -> Path:
    """Write a file that looks like a checkpoint without tensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps({"format": 1, **content}))
    return path


def test_networks_without_a_width_do_not_differ_in_it(tmp_path: Path) -> None:
    config = {**preset("digits"), "model": "resnet18", "width": 8}
    weights = write_checkpoint(tmp_path / "net.pt", config=config)
    train.check_network(from_dict({**config, "width": 16, "init": str(weights)}))
    with pytest.raises(UserError, match="--model resnet18, not resnet34"):
        train.check_network(from_dict({**config, "model": "resnet34", "init": str(weights)}))


def test_the_checkpoint_with_the_highest_number_counts(tmp_path: Path) -> None:
    """last.pt may be older, because the process died before it made it a name of the newest checkpoint."""
    for name, fingerprint in (("last", "a"), ("iteration-000000005", "a"), ("iteration-000000010", "b")):
        newest = write_checkpoint(tmp_path / f"checkpoints/{name}.pt", fingerprint=fingerprint)
    assert newest_facts(tmp_path) == CheckpointFacts(None, None, "b")
    newest.write_bytes(b"damaged")
    assert newest_facts(tmp_path) == CheckpointFacts(None, None, "a")


class Danger:
    """Its pickle would make a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def facts_in(content: bytes, path: Path, compression: int = zipfile.ZIP_STORED) -> CheckpointFacts | None:
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", content)
    return read_facts(path)


def test_a_checkpoint_is_read_without_running_what_it_names(tmp_path: Path) -> None:
    content = {"format": 1, "model": Danger(tmp_path / "made"), "classes": ["cat"], "config": {"lr": 1}}
    assert facts_in(pickle.dumps(content), tmp_path / "last.pt") == CheckpointFacts(None, ["cat"], None)
    assert not (tmp_path / "made").exists()


def test_damaged_and_crafted_checkpoints_are_left_to_the_ranks(tmp_path: Path) -> None:
    path, nested = tmp_path / "last.pt", []
    for _ in range(300):
        nested = [nested]
    content = pickle.dumps({"format": 1, "classes": ["cat"], "config": {"seed": nested}})
    assert facts_in(content, path) == CheckpointFacts(None, ["cat"], None)
    assert facts_in(content, path, zipfile.ZIP_DEFLATED) is None  # torch.save does not compress
    assert all(facts_in(content[:size], path) is None for size in range(0, len(content), 7))
    table = b"\x80\x02}r" + (2**31).to_bytes(4, "little") + b"."  # pickle would allocate 32 GiB to store this entry
    assert facts_in(table, path) is None
    long = b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b"."  # a bytearray that is longer than the file
    assert facts_in(long, path) is None
    path.write_bytes(path.read_bytes()[:100])
    assert read_facts(path) is None
