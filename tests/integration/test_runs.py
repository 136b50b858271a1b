"""Commands of ./run.sh, as a user types them, and the results of their runs.

The default job, a run with each launcher and a refusal are started by run.sh itself. In the other tests run.sh is
replaced by the same program with ranks that are forks.
"""

import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.support import programs
from tests.support.fork_server import forked_app
from tests.support.programs import ROOT

SHORT = ["--epochs", "2", "--width", "4"]
MPI = ["-np", "2", "--launcher", "mpirun"]

# Each name has the launcher's options, the options of train, and a regular expression for the output.
RUNS = {
    "horovodrun, gloo": (["-np", "2"], SHORT, "processes: 2 on .*, device cpu; controller gloo, collectives gloo"),
    "horovodrun, mpi": (["-np", "2"], [*SHORT, "--collectives", "mpi"], "controller mpi, collectives mpi"),
    "mpirun -np 4, gloo": (
        ["-np", "4", "--launcher", "mpirun"],
        [*SHORT, "--collectives", "gloo"],
        "processes: 4 on .*controller gloo, collectives gloo",
    ),
    "mpirun, mpi": (MPI, [*SHORT, "--collectives", "mpi"], "controller mpi, collectives mpi"),
    "no launcher": (["--launcher", "none"], SHORT, "processes: 1 on .* collectives none"),
    "BN over all workers": (["-np", "2"], [*SHORT, "--sync-bn", "--per-worker", "64"], "k = 2 workers of n = 64"),
    "constant warmup": (["--launcher", "none"], [*SHORT, "--warmup", "constant"], "after constant warmup from 0.1"),
    "no warmup": (["--launcher", "none"], [*SHORT, "--warmup", "none"], "linear scaling gives 0.4;"),
    "synthetic images": (
        ["--launcher", "none"],
        ["--data", "synthetic", "--synthetic-images", "100", "--synthetic-classes", "10", "--image-size", "32",
         "--model", "resnet18", "--minibatch", "32", "--per-worker", "16", "--epochs", "1"],
        "recipe: folder, resnet18 on synthetic: 100 training and 4 validation images",
    ),
}  # fmt: skip


RUN_SH = [ROOT / "run.sh"]
REAL = ["horovodrun, gloo", "mpirun, mpi", "no launcher"]


def run(*words: object, code: int = 0, program: Sequence[object] = ()) -> subprocess.CompletedProcess[str]:
    # A CDPATH that a user has exported must not lead run.sh to other folders.
    return programs.run(*(program or forked_app()), *words, code=code, CDPATH=".")


@pytest.mark.parametrize("name", RUNS)
def test_run(name: str, tmp_path: Path) -> None:
    launch, options, said = RUNS[name]
    done = run(*launch, "train", "--output", tmp_path / "run", *options, program=RUN_SH if name in REAL else ())
    assert re.search(said, done.stdout), done.stdout
    assert done.stdout.count("result: ") == 1  # only rank 0 prints it


def test_the_default_job_learns_and_leaves_what_it_should(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run("train", "--output", folder, program=RUN_SH)
    result = json.loads((folder / "result.json").read_text())
    assert result["top1_error"] < 0.03 and result["median_top1_error"] < 0.03
    assert {name: result[name] for name in ("epochs", "minibatch", "workers", "processes")} == {
        "epochs": 30, "minibatch": 128, "workers": 8, "processes": 2,
    }  # fmt: skip
    assert 0 <= result["top5_error"] <= result["top1_error"] and result["images_per_second"] > 0
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    fields = {"kind", "epoch", "seen", "iteration", "lr", "loss", "top1_error", "images_per_second"}
    assert all(fields <= set(line) for line in lines)
    evaluations = [line for line in lines if line["kind"] == "eval"]
    assert len(evaluations) == 30 and evaluations[-1]["top1_error"] == result["top1_error"]
    assert result["top1_error"] * 720 == pytest.approx(round(result["top1_error"] * 720))  # a fraction of 720 images
    content = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
    assert content["model"]["layer1.0.bn1.running_mean"].shape == (16,)
    assert int(content["model"]["bn1.num_batches_tracked"]) == 240
    assert json.loads((folder / "config.json").read_text())["minibatch"] == 128
    assert json.loads((folder / "plan.json").read_text())["peak_lr"] == 0.4
    events = {
        name: EventAccumulator(str(folder / "tensorboard" / name), size_guidance={"scalars": 0}).Reload()
        for name in ("train", "validation")
    }
    rates = events["train"].Scalars("steps/lr")
    assert [event.step for event in rates] == list(range(1, 241))  # one value per iteration
    assert (rates[0].value, rates[-1].value) == (pytest.approx(0.1), pytest.approx(0.0004))
    assert rates[1].value == pytest.approx(0.1 + 0.3 / 40)
    assert len(events["validation"].Scalars("steps/top1_error")) == 30


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder of 2 classes with 8 training and 2 validation images each."""
    folder = tmp_path_factory.mktemp("images")
    for split, count in (("train", 8), ("val", 2)):
        for label, colour in (("blue", (0, 0, 200)), ("red", (200, 0, 0))):
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                picture = Image.new("RGB", (40, 48), colour)
                picture.putpixel((number, number), (255, 255, 255))
                picture.save(folder / split / label / f"{number}.jpg")
    return folder


TINY = ["--model", "resnet8", "--image-size", "32", "--resize", "32", "--minibatch", "8", "--per-worker", "4"]


def test_a_folder_of_images(images: Path, tmp_path: Path) -> None:
    done = run("-np", "2", "train", "--data", images, *TINY, "--epochs", "1", "--output", tmp_path / "run")
    assert "16 training and 4 validation images" in done.stdout
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)["classes"] == ["blue", "red"]


@pytest.mark.parametrize("launch", [["-np", "2"], MPI, ["--launcher", "none"]], ids=["horovodrun", "mpirun", "none"])
def test_a_corrupt_image_ends_the_run(images: Path, tmp_path: Path, launch: list[str]) -> None:
    folder = tmp_path / "images"
    subprocess.run(["cp", "-r", images, folder], check=True)
    (folder / "train" / "red" / "5.jpg").write_bytes(b"\xff\xd8\xff\xe0no image")
    done = run(*launch, "train", "--data", folder, *TINY, "--epochs", "1", "--output", tmp_path / "run", code=3)
    assert str(folder / "train" / "red" / "5.jpg") in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


# Each command line has a part of its error message. It is refused before the launch, or by all ranks together.
REFUSED = {
    "train --epoch 3": "did you mean --epochs",
    "train --recipe paper-9k": "did you mean paper-8k",
    "trian": "did you mean train",
    "-npp 2 train": "did you mean -np",
    "train --data {tmp}/nowhere": "nowhere",
    "train --minibatch 100": "not a multiple of --per-worker 16: try 96 or 112",
    "-np 9 train": "9 processes are more than the k = 8 workers",
    "train --per-worker 0": "--per-worker is 0",
    "train --epochs -1": "--epochs is -1",
    "train --reference-lr 0": "--reference-lr is 0",
    "train --minibatch 2048": "larger than the data: 1077 training images",
    "train --output /proc/run": "cannot be written",
    "train --output {tmp}/done": "contains a finished run",
    "train --resume {tmp}/done --model resnet14": "--model was 'resnet8', now 'resnet14'",
    "train --resume {tmp}/nowhere": "is not a run",
    "train --model resnet5": "did you mean resnet50",
    "train --collectives nccl": "nccl",
    "train --checkpoint-every 5x": "a number of steps, or a time",
    "train --sync-bn": "--sync-bn needs one process for each of the k = 8 workers",
    "--min-np 1 train": "--host-discovery-script",
}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that contains a finished run in its folder `done`."""
    folder = tmp_path_factory.mktemp("done")
    run("--launcher", "none", "train", *SHORT, "--epochs", "1", "--output", folder / "done")
    return folder


@pytest.mark.parametrize("words", REFUSED)
def test_refusal(words: str, done: Path) -> None:
    program = RUN_SH if words == "trian" else ()
    refused = run(*words.format(tmp=done).split(), code=2, program=program)
    assert "Traceback" not in refused.stderr
    assert REFUSED[words] in refused.stderr.splitlines()[-1]


@pytest.mark.parametrize("launch", [MPI, ["--launcher", "none"]], ids=["mpirun", "none"])
def test_a_refusal_by_the_ranks_on_other_launchers(launch: list[str], done: Path) -> None:
    refused = run(*launch, "train", "--data", done / "nowhere", code=2)
    assert "Traceback" not in refused.stderr
    assert len([line for line in refused.stderr.splitlines() if "nowhere" in line]) == 1
