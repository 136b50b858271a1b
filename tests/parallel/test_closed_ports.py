"""Another user of the machine learns no secret from the ports and processes of a run, and cannot disturb the run.

The same is tested for a run on two hosts in tests/cluster/test_strangers.py.
"""

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from horovod.runner.common.util import network, secret

from app.doctor import bandwidth
from app.world import rendezvous
from tests.support.elastic import print_hosts
from tests.support.jobs import Job, iteration, wait_for
from tests.support.planted_secrets import PLANTED, SECRETS
from tests.support.programs import APP, ROOT, RUN

TRAIN = ["train", "--device", "cpu", "--width", "4", "--minibatch", "64", "--per-worker", "8", "--epochs", "900",
         "--log-every", "1", "--keep", "2"]  # fmt: skip
RUNS = {
    "static": ["-np", "2", *TRAIN],
    "gloo under mpirun": ["-np", "2", "--launcher", "mpirun", *TRAIN, "--collectives", "gloo"],
    "MPI under horovodrun": ["-np", "2", *TRAIN, "--collectives", "mpi"],
    "elastic": ["--min-np", "1", *TRAIN],
}
STRANGER = "nobody"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="root alone can become another user")


def processes(job: Job) -> list[psutil.Process]:
    first = psutil.Process(job.process.pid)
    return [first, *first.children(recursive=True)]


def places(job: Job) -> list[str]:
    """Return the addresses at which the processes of the job listen."""
    found = set()
    for process in processes(job):
        with contextlib.suppress(psutil.Error):  # it has ended, as the script that is run every second does
            for each in process.net_connections("inet"):
                if each.status == psutil.CONN_LISTEN:
                    found.add(f"{each.laddr.ip}:{each.laddr.port}")
    return sorted(found)


def memory(job: Job) -> int:
    total = 0
    for process in processes(job):
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total


def command_lines(job: Job) -> str:
    found = ""
    for process in processes(job):
        with contextlib.suppress(psutil.Error):  # the process has ended
            found += " ".join(process.cmdline())
    return found


@needs_root
@pytest.mark.parametrize("kind", RUNS)
def test_another_user_gets_nothing(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    words = RUNS[kind]
    if kind == "elastic":
        words = ["--host-discovery-script", str(print_hosts(tmp_path / "hosts.sh", "localhost:2")), *words]
    open_folder = Path("/tmp") / f"stranger-{os.getpid()}-{len(words)}"
    open_folder.mkdir()
    open_folder.chmod(0o777)
    program = open_folder / "stranger.py"
    program.write_bytes((ROOT / "tests/support/stranger.py").read_bytes())
    job = Job(tmp_path / "run", [*RUN, *words, "--output", str(tmp_path / "run")])
    try:
        job.wait_for(lambda: iteration(job.folder) > 5)
        listening, before = places(job), memory(job)
        assert not [place for place in listening if not place.startswith(("127.0.0.1:", "::1:"))]
        reached = open_folder / "reached"
        done = subprocess.run(
            ["/usr/bin/python3", "-I", str(program), str(reached), *listening],
            user=STRANGER, group="nogroup", extra_groups=[], env={"PATH": os.environ["PATH"]}, cwd="/",
            capture_output=True, text=True, timeout=200, check=True,
        )  # fmt: skip
        assert listening
        answer = json.loads(done.stdout)
        assert answer["got"] == []
        assert not reached.exists()
        assert memory(job) < before + 200 * 2**20
        seen = iteration(job.folder)
        job.wait_for(lambda: iteration(job.folder) > seen + 5)
        assert "app.start" in answer["shown"] and PLANTED not in answer["shown"]
        assert (secret := tokens(job)) and not [token for token in secret if token in answer["shown"]]
        assert PLANTED not in command_lines(job)
        job.signal("run.sh", signal.SIGTERM)
        assert job.end().code == 75
        page = tmp_path / "page"
        subprocess.run([*APP, "report", str(job.folder), "--output", str(page)], cwd=ROOT, check=True)
        files = [path for folder in (job.folder, page) for path in folder.rglob("*") if path.is_file()]
        assert {"environment.json", "log.jsonl", "report.html"} <= {path.name for path in files}
        assert not [path for path in files if PLANTED.encode() in path.read_bytes()]
    finally:
        if job.alive():
            job.process.terminate()
            job.process.wait(60)
        for path in open_folder.iterdir():
            path.unlink()
        open_folder.rmdir()


def tokens(job: Job) -> set[str]:
    """Return the secret tokens in the environments of the ranks."""
    found = set()
    for pid in job.ranks().values():
        for variable in Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0"):
            if variable.startswith(("HOROVOD_GLOO_RENDEZVOUS_ADDR=", "OPEN_MPI_TOKEN=")):
                found.add(re.split("[/=]", variable)[-1])
    return found


def launchers_store() -> tuple[int, str, Callable[[], None]]:
    """Start the launcher's store. Return its port, the path of a key in it, and a function that ends it."""
    server = rendezvous.ClosedServer("127.0.0.1")
    port = server.start()
    server._httpd.cache["scope"] = {"key": b"value"}
    return port, f"/{server.token}/scope/key", server.stop


def service_of_a_rank() -> tuple[int, str, Callable[[], None]]:
    """Start the service that each rank of an elastic run has. Return its port, no key, and a function that ends it."""
    rendezvous.close_services("lo")
    service = network.BasicService("service", secret.make_secret_key(), nics=None)
    return service.addresses()["lo"][0][1], "", service.shutdown


@pytest.mark.parametrize("start", [launchers_store, service_of_a_rank])
def test_connections_of_strangers_do_not_add_up(
    start: Callable[[], tuple[int, str, Callable[[], None]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest connections of strangers are closed. The job still gets answers, and the server ends at once."""
    monkeypatch.setattr(network.Wire, "read", network.Wire.read)
    monkeypatch.setattr(network, "find_port", network.find_port)
    monkeypatch.setattr(rendezvous, "MOST_ARRIVING", 5)
    port, path, stop = start()
    with contextlib.ExitStack() as stack:
        strangers = []
        for _ in range(12):
            strangers.append(stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60)))
            strangers[-1].sendall(b"G")
        wait_for(lambda: len(select.select(strangers, [], [], 0)[0]) == 7)
        if path:
            with socket.create_connection(("127.0.0.1", port), timeout=60) as rank:
                rank.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
                assert rank.makefile("rb").read().endswith(b"value")
        stop()
        ended = select.select(strangers, [], [], 0)[0]
        assert len(ended) == (8 if path else 7)
        assert {stranger.recv(100) for stranger in ended} == {b""}


def test_doctor_measures_the_stream_of_the_other_host_and_not_that_of_a_stranger(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bandwidth, "ARRIVE", 0.2)
    monkeypatch.setattr(bandwidth, "STREAM", 0.1)
    token = b"0123456789abcdef"
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        place = server.getsockname()
        with socket.create_connection(place) as silent, socket.create_connection(place) as stranger:
            stranger.sendall(bytes(16))
            sender = threading.Thread(target=bandwidth._send, args=[(*place, token)])
            sender.start()
            assert bandwidth._receive(server, token) > 0.01
            sender.join()
            assert (silent.recv(1), stranger.recv(1)) == (b"", b"")


def test_a_request_that_never_arrives_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that is not complete in time is ended. Otherwise each of them would occupy a thread of the launcher."""
    monkeypatch.setattr(rendezvous, "REQUEST_TIME", 0.2)
    server = rendezvous.ClosedServer("127.0.0.1")
    port = server.start()
    try:
        for words in (b"", b"GET /global/0 HTTP/1.1\r\nHost:"):
            with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
                connection.sendall(words)
                assert connection.recv(100) == b""
    finally:
        server.stop()
