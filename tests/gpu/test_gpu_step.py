"""Training steps on a GPU, compared with one CPU process in float64.

Without a GPU, only the tests with two ranks run, on the CPU. They then show that the tests themselves work. The other
tests are skipped, because tests/parallel and tests/integration test the CPU.

Two ranks share one GPU, so that NCCL is tested with a single GPU. NCCL 2.30 allows this with
NCCL_MULTI_RANK_GPU_ENABLE. With older versions it works if each rank claims to be on another host (NCCL_HOSTID). NCCL
then uses sockets, as between hosts.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from tests.support.fork_server import fork_of
from tests.support.programs import RUN, horovodrun, run, said, start

ROOT = Path(__file__).parents[2]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
STEP = ROOT / "tests/parallel/step_rank.py"
needs_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="torch sees no GPU")
SHARED_CARD = {"NCCL_MULTI_RANK_GPU_ENABLE": "1"}
# A GPU sums in another order than a CPU, so the tolerances are wider than in tests/parallel/test_step_options.py.
CASES: dict[str, dict[str, Any]] = {
    "fp32": {"ghost": "off"},
    "ghosts": {"ghost": "auto"},
    "channels_last": {"channels_last": True},
    "bf16": {"precision": "bf16", "channels_last": True},
    "fp16": {"precision": "fp16", "channels_last": True},
    "compressed": {"compression": "fp16", "channels_last": True},
}
TOLERANCE = {"fp32": 2e-5, "ghosts": 2e-5, "channels_last": 2e-5, "bf16": 2e-3, "fp16": 1e-3, "compressed": 5e-5}


def launch(processes: int, device: str, cases: list[dict[str, Any]], **variables: str) -> dict[str, Any]:
    """Return what rank 0 of step_rank.py prints about these cases."""
    command = [*(fork_of(STEP) if device == "cpu" else [sys.executable, STEP]), "train", json.dumps(cases), device]
    found: dict[str, Any] = said(run(*horovodrun(processes, *command), **variables).stdout)[0]
    return found


@cache
def reference() -> list[float]:
    """Return the losses of one CPU process in float64."""
    losses: list[float] = launch(1, "cpu", [{"precision": "fp64", "ghost": "off"}])["cases"][0]["losses"]
    return losses


@cache
def found(processes: int) -> dict[str, Any]:
    """Return the result of each case on the device."""
    variables = SHARED_CARD if processes > 1 and DEVICE == "cuda" else {}
    said = launch(processes, DEVICE, list(CASES.values()), **variables)
    assert all(len({ranks[i] for ranks in said["hashes"]}) == 1 for i in range(len(CASES))), "the ranks differ"
    return dict(zip(CASES, said["cases"], strict=True))


@pytest.mark.parametrize("processes", [pytest.param(1, marks=needs_gpu), 2])
@pytest.mark.parametrize("case", CASES)
def test_the_losses_are_those_of_float64(case: str, processes: int) -> None:
    assert found(processes)[case]["losses"] == pytest.approx(reference(), abs=TOLERANCE[case])


@needs_gpu
def test_fp32_does_not_use_tf32() -> None:
    """TF32 has a mantissa of 10 bits, so it would round the factor 1 + 2^-12 to 1."""
    from app.world import world

    world.start("auto", "cuda")
    a = torch.full((64, 64), 1 + 2.0**-12, device="cuda")
    assert torch.equal(a @ torch.eye(64, device="cuda"), a)
    world.stop()


@needs_gpu
def test_compiled() -> None:
    assert launch(1, DEVICE, [{"compile": True}])["cases"][0]["losses"] == pytest.approx(reference(), abs=2e-5)


@needs_gpu
@pytest.mark.parametrize("algorithm", ["ring", "tree"])
def test_algorithms_of_nccl(algorithm: str) -> None:
    said = launch(2, DEVICE, [{"allreduce": algorithm, "ghost": "off"}], **SHARED_CARD)
    assert said["cases"][0]["losses"] == pytest.approx(reference(), abs=2e-5)


@needs_gpu
def test_ranks_on_two_claimed_hosts() -> None:
    """NCCL uses sockets between the ranks, because each rank claims to be on another host."""
    code = (
        "import os, runpy, sys; os.environ['NCCL_HOSTID'] = os.environ['HOROVOD_RANK'];"
        f" sys.argv = ['step_rank.py', 'train', '[{{}}]', 'cuda']; runpy.run_path({str(STEP)!r})"
    )
    run(*horovodrun(2, sys.executable, "-c", code))


TRAIN = ["train", "--data", "synthetic", "--synthetic-images", "512", "--synthetic-classes", "10", "--image-size", "32",
         "--resize", "32", "--model", "resnet8", "--minibatch", "64", "--per-worker", "16"]  # fmt: skip


def train(processes: int, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the `train` command with a number of processes."""
    command = [*RUN, "-np", processes, *TRAIN, "--device", DEVICE, *options]
    return run(*command, code=None, **(SHARED_CARD if DEVICE == "cuda" else {}))


@needs_gpu
def test_a_resumed_run_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    """A run of two epochs is equal to a run of one epoch that is resumed for the second."""
    options = ["--precision", "bf16", "--channels-last", "--warmup", "none", "--decay-epochs", "100"]
    whole = train(2, *options, "--epochs", "2", "--output", str(tmp_path / "whole"))
    assert whole.returncode == 0, whole.stdout + whole.stderr
    first = train(2, *options, "--epochs", "1", "--output", str(tmp_path / "parts"))
    assert first.returncode == 0, first.stdout + first.stderr
    (tmp_path / "parts/result.json").unlink()
    second = train(2, *options, "--epochs", "2", "--resume", str(tmp_path / "parts"), "--allow-change", "epochs")
    assert second.returncode == 0, second.stdout + second.stderr
    states = [
        torch.load(tmp_path / name / "checkpoints/last.pt", weights_only=True)["model"] for name in ("whole", "parts")
    ]
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, rtol=1e-5, atol=1e-6)


@needs_gpu
def test_a_killed_rank_ends_the_job(tmp_path: Path) -> None:
    """The other rank then waits in an NCCL collective. Only its guard process or the launcher can end it."""
    options = ["-np", 2, *TRAIN, "--epochs", 1000, "--output", tmp_path / "run"]
    job = start(*RUN, *options, **SHARED_CARD)
    assert job.stdout is not None
    for line in job.stdout:
        if "epoch 2" in line:
            break
    ranks = [p for p in psutil.Process(job.pid).children(recursive=True) if p.cmdline()[1:4] == ["-m", "app", "train"]]
    ranks[-1].send_signal(signal.SIGKILL)
    text, _ = job.communicate(timeout=120)
    assert job.returncode == 1
    assert "was ended by SIGKILL" in text
