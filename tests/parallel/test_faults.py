"""Jobs with faults end in time and with the documented exit code. Their last line names the fault and the rank."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from tests.support.elastic import print_hosts
from tests.support.fork_server import forked_app, forked_ranks
from tests.support.jobs import End, Job, iteration
from tests.support.programs import RUN

HOST = socket.gethostname()
FAULT_RANK = "tests/support/fault_rank.py"
STALL = 10
SMALL = ["--device", "cpu", "--width", "4", "--minibatch", "64", "--per-worker", "8", "--log-every", "1"]
TRAIN = ["train", *SMALL, "--epochs", "400", "--checkpoint-every", "5"]
STALLS = ["--stall-timeout", str(STALL)]
AT_ONCE = 3  # jobs that run at the same time; they wait most of the time
IN_TIME = STALL + 30  # seconds that a stalled job may take on a busy machine
SEEN = r"at epoch \d+, iteration \d+"


def command(np: int, launcher: str, *options: str) -> list[str]:
    return ["-np", str(np), "--launcher", launcher, *TRAIN, *options]


def faulty(launcher: str, fault: str, *options: str, np: int = 2) -> Callable[[Path], End]:
    """Return a function that runs a job with a fault of tests/support/fault_rank.py. Its ranks are forks."""

    def run(folder: Path) -> End:
        words = [*forked_ranks(FAULT_RANK), *command(np, launcher, *options)]
        return Job(folder, [*words, "--output", str(folder)], fault).end()

    return run


def elastic(folder: Path, slots: int) -> list[str]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    script = print_hosts(folder.with_name(f"{folder.name}.sh"), f"localhost:{slots}")
    return ["--min-np", "1", "--host-discovery-script", str(script), *TRAIN, "--output", str(folder)]


def elastic_stopped(folder: Path) -> End:
    """Run an elastic job whose rank 0 gets SIGSTOP. When the other rank has continued for 20 steps, end the job."""
    job = Job(folder, [*forked_ranks(FAULT_RANK), *elastic(folder, 2), *STALLS], "stop:0:15")
    job.wait_for(lambda: "has not answered" in job.output.read_text())
    before = iteration(folder)
    job.wait_for(lambda: iteration(folder) > before + 20)
    job.signal("run.sh", signal.SIGTERM)
    return job.end()


def elastic_not_finite(folder: Path) -> End:
    return Job(folder, [*forked_app(), *elastic(folder, 2), "--reference-lr", "9e18"]).end()


def asked_in_training(launcher: str, to: str) -> Callable[[Path], End]:
    def run(folder: Path) -> End:
        job = Job(folder, [*forked_app(), *command(2, launcher, "--output", str(folder))])
        job.wait_for(lambda: iteration(folder) >= 10)
        job.signal(to, signal.SIGTERM)
        return job.end()

    return run


def asked_at_start(folder: Path) -> End:
    """Run a job. As soon as the process of rank 1 exists, this process gets SIGTERM. It is no fork."""
    job = Job(folder, [*RUN, *command(2, "horovodrun", "--output", str(folder))])
    job.wait_for(lambda: 1 in job.ranks())
    job.signal("rank 1", signal.SIGTERM)
    return job.end()


def asked_in_evaluation(folder: Path) -> End:
    words = [*forked_ranks(FAULT_RANK), *command(2, "horovodrun", "--output", str(folder))]
    job = Job(folder, words, "slow:0:0")
    job.wait_for(lambda: "evaluating" in job.output.read_text())
    job.signal("rank 1", signal.SIGTERM)
    return job.end()


NAN = ["--reference-lr", "9e18"]
JOBS: dict[str, Callable[[Path], End]] = {
    "elastic stopped": elastic_stopped,
    "elastic not finite": elastic_not_finite,
    "start changed": faulty("mpirun", "change:1:0", np=3),
    "epoch changed": faulty("horovodrun", "change:1:5"),
    "throws": faulty("mpirun", "throw:1:15"),
    "dies": faulty("horovodrun", "die:1:60"),
    "dies mpi": faulty("mpirun", "die:1:60"),
    "stops": faulty("horovodrun", "stop:0:60", *STALLS),
    "stops mpi": faulty("mpirun", "stop:1:60", *STALLS),
    "sleeps": faulty("horovodrun", "sleep:1:15", *STALLS),
    "loader": faulty("horovodrun", "loader:1:15", "--loader-processes", "1", "--stall-timeout", "25"),
    "not finite": faulty("none", "none:0:0", *NAN, np=1),
    "not finite mpi": faulty("mpirun", "none:0:0", *NAN),
    "asked launcher": asked_in_training("horovodrun", "launcher"),
    "asked rank": asked_in_training("mpirun", "rank 1"),
    "asked at start": asked_at_start,
    "asked in evaluation": asked_in_evaluation,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def ends(folders: Path) -> Iterator[dict[str, Future[End]]]:
    """Start all jobs. Yield a dict from the name of a job to a future of its end."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {name: pool.submit(job, folders / name.replace(" ", "-")) for name, job in JOBS.items()}


def checkpoint(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return torch.load(folder / "checkpoints" / "last.pt", weights_only=True)


@pytest.mark.parametrize(("name", "when"), [("start changed", "at the start"), ("epoch changed", "after epoch 1")])
def test_a_rank_with_another_tensor_is_named(ends: dict[str, Future[End]], name: str, when: str) -> None:
    end = ends[name].result()
    assert end.code == 1
    assert f"{when} rank 1 on {HOST} holds another model." in end.last


def test_a_rank_that_throws(ends: dict[str, Future[End]]) -> None:
    end = ends["throws"].result()
    assert end.code == 1
    assert end.text.count("Traceback") == 1
    assert re.fullmatch(rf"error: rank 1 on {HOST}: ZeroDivisionError: the reason: computing, {SEEN}", end.last)


@pytest.mark.parametrize("name", ["dies", "dies mpi"])
def test_a_rank_that_dies(ends: dict[str, Future[End]], name: str) -> None:
    end = ends[name].result()
    assert end.code == 1
    assert re.match(r"error: rank 1 on \S+ was ended by SIGKILL, last seen [a-z ]+, at ", end.last), end.last


@pytest.mark.parametrize(
    ("name", "rank", "cause"),
    [
        ("stops", 0, r"it has not answered for \d+ s \(it is stopped, .*\) \(--stall-timeout .*\), last seen [a-z ]+"),
        (
            "stops mpi",
            1,
            r"it has not answered for \d+ s \(it is stopped, .*\) \(--stall-timeout .*\), last seen [a-z ]+",
        ),
        ("sleeps", 1, r"no step for \d+ s \(--stall-timeout 10\): computing"),
        ("loader", 1, r"no step for \d+ s \(--stall-timeout 25\): waiting for data"),
    ],
)
def test_a_rank_that_stalls(ends: dict[str, Future[End]], name: str, rank: int, cause: str) -> None:
    end = ends[name].result()
    assert end.code == 1
    assert re.fullmatch(rf"error: rank {rank} on {HOST}: {cause}, at .*", end.last), end.last
    assert 'File "' in end.text and "in session\n" in end.text
    if name in ("sleeps", "loader"):  # a stopped rank cannot print its own stack
        assert "in train_epoch\n" in end.text
    assert end.seconds < 3 * IN_TIME


def test_an_elastic_run_goes_on_without_a_rank_that_stops(ends: dict[str, Future[End]]) -> None:
    end = ends["elastic stopped"].result()
    assert "warning: rank 0" in end.text and "has not answered" in end.text
    assert end.code == 75, end.text
    assert re.match(r"rank 0 on \S+: stopped at epoch \d+, iteration \d+ and saved", end.last)


@pytest.mark.parametrize("name", ["not finite", "not finite mpi", "elastic not finite"])
def test_a_loss_that_is_no_number(ends: dict[str, Future[End]], folders: Path, name: str) -> None:
    end = ends[name].result()
    assert end.code == 4, end.text
    hint = r"learning rate \S+: try a longer --warmup-epochs or a smaller"
    assert re.search(rf"the (loss|network) .* {SEEN}, {hint}", end.last)
    for path in (folders / name.replace(" ", "-") / "checkpoints").glob("*.pt"):
        found = torch.load(path, weights_only=True)
        assert all(tensor.isfinite().all() for tensor in [*found["model"].values(), *found["momentum"]])


@pytest.mark.parametrize("name", ["asked launcher", "asked rank", "asked at start", "asked in evaluation"])
def test_a_run_that_is_asked_to_leave(ends: dict[str, Future[End]], name: str) -> None:
    end = ends[name].result()
    assert end.code == 75, end.text
    # At the start, rank 1 may die before it handles signals. Rank 0 then waits for it until horovodrun kills it.
    assert end.seconds < (60 if name == "asked at start" else 30)
    assert re.search("the same command (continues it|starts it again)", end.last), end.last


def test_what_was_stopped_in_evaluation_goes_on_there(ends: dict[str, Future[End]], folders: Path) -> None:
    ends["asked in evaluation"].result()
    folder = folders / "asked-in-evaluation"
    # This is the end of the epoch. Its 1,077 images are 16 steps of 64, and the images that are left over are not used.
    assert checkpoint(folder)["position"] == {"epoch": 0, "seen": 16 * 64}
    job = Job(folder, [*forked_app(), *command(2, "horovodrun", "--output", str(folder))])
    job.wait_for(lambda: iteration(folder) > 16)
    job.signal("run.sh", signal.SIGINT)
    assert job.end().code == 75
    steps = [line for line in (folder / "log.jsonl").read_text().splitlines() if '"train"' in line]
    assert [int(re.search(r'"iteration": (\d+)', line)[1]) for line in steps] == list(range(1, len(steps) + 1))
