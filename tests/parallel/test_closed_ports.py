"""Another user of the machine gets nothing from the ports of a run, and the run continues."""

import json
import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.support.jobs import Job, iteration
from tests.support.programs import ROOT, RUN

TRAIN = ["train", "--device", "cpu", "--width", "4", "--minibatch", "64", "--per-worker", "8", "--epochs", "900",
         "--log-every", "1", "--keep", "2"]  # fmt: skip
RUNS = {
    "static": ["-np", "2", *TRAIN],
    "gloo under mpirun": ["-np", "2", "--launcher", "mpirun", *TRAIN, "--collectives", "gloo"],
    "elastic": ["--min-np", "1", *TRAIN],
}
STRANGER = "nobody"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="root alone can become another user")


def processes(job: Job) -> list[psutil.Process]:
    first = psutil.Process(job.process.pid)
    return [first, *first.children(recursive=True)]


def places(job: Job) -> list[str]:
    """Return the addresses at which the processes of the job listen."""
    found = set()
    for process in processes(job):
        for each in process.net_connections("inet"):
            if each.status == psutil.CONN_LISTEN:
                found.add(f"{each.laddr.ip}:{each.laddr.port}")
    return sorted(found)


def memory(job: Job) -> int:
    return sum(process.memory_info().rss for process in processes(job))


@pytest.mark.parametrize("kind", RUNS)
def test_another_user_gets_nothing(kind: str, tmp_path: Path) -> None:
    words = RUNS[kind]
    if kind == "elastic":
        script = tmp_path / "hosts.sh"
        script.write_text("#!/bin/sh\necho localhost:2\n")
        script.chmod(0o755)
        words = ["--host-discovery-script", str(script), *words]
    open_folder = Path("/tmp") / f"stranger-{os.getpid()}-{len(words)}"
    open_folder.mkdir()
    open_folder.chmod(0o777)
    program = open_folder / "stranger.py"
    program.write_bytes((ROOT / "tests/parallel/stranger.py").read_bytes())
    job = Job(tmp_path / "run", [*RUN, *words, "--output", str(tmp_path / "run")])
    try:
        job.wait_for(lambda: iteration(job.folder) > 5)
        listening, before = places(job), memory(job)
        if kind == "gloo under mpirun":  # Open MPI's own transports, which this program cannot close, listen everywhere
            listening = [place for place in listening if place.startswith("127.")]
        else:
            assert not [place for place in listening if place.startswith(("0.0.0.0", "::"))], listening
        reached = open_folder / "reached"
        done = subprocess.run(
            ["/usr/bin/python3", "-I", str(program), str(reached), *listening],
            user=STRANGER, group="nogroup", extra_groups=[], env={"PATH": os.environ["PATH"]}, cwd="/",
            capture_output=True, text=True, timeout=200, check=True,
        )  # fmt: skip
        assert listening
        assert json.loads(done.stdout) == []
        assert not reached.exists()
        assert memory(job) < before + 200 * 2**20
        seen = iteration(job.folder)
        job.wait_for(lambda: iteration(job.folder) > seen + 5)
        token = token_of(job)
        if token:
            shown = subprocess.run(
                ["sh", "-c", "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null"],
                user=STRANGER, group="nogroup", extra_groups=[], capture_output=True, check=False,
            )  # fmt: skip
            assert token not in shown.stdout
        job.signal("run.sh", signal.SIGTERM)
        assert job.end().code == 75
    finally:
        if job.alive():
            job.process.terminate()
            job.process.wait(60)
        for path in open_folder.iterdir():
            path.unlink()
        open_folder.rmdir()


def token_of(job: Job) -> bytes:
    """Return the token of horovodrun's ranks; b"" under mpirun, where no process has it in its first environment."""
    for pid in job.ranks().values():
        for variable in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if variable.startswith(b"HOROVOD_GLOO_RENDEZVOUS_ADDR="):
                return variable.rpartition(b"/")[2]
    return b""
