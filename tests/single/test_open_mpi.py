"""mpirun and its daemons get the environment variables that close Open MPI's ports to other users.

The variables are never on a command line, because other users can read it. tests/parallel/test_closed_ports.py and
tests/cluster/test_strangers.py test whether the ports are really closed.
"""

import os
import subprocess
from pathlib import Path

import pytest

from app.hosts.hostfile import Host
from app.launch import open_mpi
from app.launch.command_line import Launch, command_line
from app.launch.environment import cleaned, travels
from app.launch.explain import explain

SCRIPT = Path(open_mpi.__file__).with_suffix(".sh")
SHOW = 'echo "$OPEN_MPI_TOKEN|$OPEN_MPI_INTERFACE|$LD_PRELOAD|$*"; cat'


def run(*words: str, given: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    variables = {"PATH": os.environ["PATH"], **environ}
    return subprocess.run([SCRIPT, *words], input=given, env=variables, capture_output=True, text=True)


def test_the_variables_travel_through_standard_input(tmp_path: Path) -> None:
    (tmp_path / "ssh").write_text("#!/bin/sh\necho $*\ncat\n")
    (tmp_path / "ssh").chmod(0o755)
    variables = open_mpi.closing({"LD_PRELOAD": "/other.so"}, "eth0")
    sent = run("ssh", "-p", "22", "beta", "orted -a", **variables | {"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    words, _, given = sent.stdout.partition("\n")
    assert words == "-p 22 beta orted -a"
    started = run("sh", "-c", SHOW, "sh", "-a", given=given)
    preload = f"{open_mpi.LIBRARY}:/other.so"
    assert started.stdout == f"{variables['OPEN_MPI_TOKEN']}|eth0|{preload}|-a\n"


def test_a_batch_system_passes_the_variables_on(tmp_path: Path) -> None:
    variables = open_mpi.closing({}, None)
    started = run("sh", "-c", SHOW, **variables)
    assert started.stdout == f"{variables['OPEN_MPI_TOKEN']}||{open_mpi.LIBRARY}|\n"


def test_a_host_without_the_library(tmp_path: Path) -> None:
    started = run("echo", "started", given=f"token\neth0\n{tmp_path}/none.so\n")
    assert (started.returncode, started.stdout) == (1, "")
    host = os.uname().nodename
    assert explain(f"words of ssh\n{started.stderr}more", ["b"]) == (
        f"{host}: it lacks a library that set-up compiles: run ./run.sh setup there"
    )


def test_each_run_has_its_own_token_and_no_other_program_gets_it() -> None:
    first, second = open_mpi.closing({}, "lo"), open_mpi.closing({}, "lo")
    assert first["OPEN_MPI_TOKEN"] != second["OPEN_MPI_TOKEN"]
    assert len(first["OPEN_MPI_TOKEN"]) == 64  # app/setup/open_mpi_token.c expects 64 characters
    assert not travels("OPEN_MPI_TOKEN")
    assert not {"OPEN_MPI_TOKEN", "OPEN_MPI_INTERFACE"} & cleaned(first).keys()
    two = Launch("mpirun", 2, [Host("a", 1), Host("b", 1)], True, "mpi", ["train"])
    for launcher in ("mpirun", "horovodrun"):
        words = " ".join(command_line(Launch(**{**vars(two), "launcher": launcher}), first))
        assert f"--mca plm_rsh_agent {SCRIPT} ssh -x" in words.replace("'", "") and f"{SCRIPT} orted" in words
        assert first["OPEN_MPI_TOKEN"] not in words
    assert "agent" not in " ".join(command_line(two, {}))


@pytest.mark.parametrize(
    ("environ", "version", "library", "reason"),
    [
        ({}, 4, None, ""),
        ({}, 5, None, "the program can close those of Open MPI 4 only, and this is Open MPI 5"),
        ({"OMPI_MCA_plm_rsh_agent": "rsh"}, 4, None, "OMPI_MCA_plm_rsh_agent is set"),
        ({}, 4, "none.so", "there is no {}: run ./run.sh setup"),
        ({}, 4, "a b.so", "LD_PRELOAD and Open MPI do not accept the characters in {}: move the program"),
    ],
)
def test_why_ports_stay_open(
    environ: dict[str, str],
    version: int,
    library: str | None,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "a b.so").touch()
    if library:
        monkeypatch.setattr(open_mpi, "LIBRARY", tmp_path / library)
    assert open_mpi.why_open(environ, version) == reason.format(open_mpi.LIBRARY)
