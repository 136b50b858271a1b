"""Protect the ports of Open MPI 4 by a token. Without the token, they accept connections from everyone.

mpirun, its daemons and the ranks load the library of app/setup/open_mpi_token.c by LD_PRELOAD. The variable
OPEN_MPI_TOKEN contains a random token. With the library, they accept only connections that begin with this token.
"""

from __future__ import annotations

import re
import secrets
import sysconfig
from collections.abc import Mapping
from pathlib import Path

LIBRARY = Path(sysconfig.get_path("purelib")) / "open_mpi_token.so"  # app/setup/open_mpi.sh writes it
TOKEN = "OPEN_MPI_TOKEN"
_SCRIPT = Path(__file__).resolve().with_suffix(".sh")
_AGENTS = ("plm_rsh_agent", "pls_rsh_agent", "orte_rsh_agent", "orte_launch_agent")


def transports(remote: bool, environ: Mapping[str, str]) -> list[str]:
    """Return mpirun's options for the transports of the ranks, except those that the user has set by variables.

    The parameter `btl` with `^` lists the transports that the ranks must not use, so that they open fewer ports. A rank
    would open a port for `ofi` and one for `tcp`. `ofi` is for MPI's one-sided communication, which Horovod does not
    use. `tcp` is not needed if all ranks are on one machine.
    """
    wanted = {"pml": "ob1", "btl": "^openib,ofi" if remote else "^openib,ofi,tcp"}
    chosen = {name: value for name, value in wanted.items() if f"OMPI_MCA_{name}" not in environ}
    return [word for name, value in chosen.items() for word in ("--mca", name, value)]


def why_open(environ: Mapping[str, str], version: int) -> str:
    """Return why the ports of Open MPI stay open in a run with these variables, or "" if they can be closed."""
    if version != 4:
        return f"the program can close those of Open MPI 4 only, and this is Open MPI {version}"
    if chosen := next((name for name in _AGENTS if f"OMPI_MCA_{name}" in environ), ""):
        return f"OMPI_MCA_{chosen} is set"
    if not LIBRARY.exists():
        return f"there is no {LIBRARY}: run ./run.sh setup"
    if not all(re.fullmatch(r"[\w./@%+=,-]+", str(path), re.ASCII) for path in (LIBRARY, _SCRIPT)):
        return f"LD_PRELOAD and Open MPI do not accept the characters in {LIBRARY}: move the program"
    return ""


def closing(environ: Mapping[str, str], interface: str | None) -> dict[str, str]:
    """Return the environment variables that make Open MPI's processes accept only connections with the token.

    Args:
        environ: The environment of the run.
        interface: The network interface on which the processes listen, or None for all interfaces.
    """
    preload = ":".join(filter(None, [str(LIBRARY), environ.get("LD_PRELOAD")]))
    return {TOKEN: secrets.token_hex(32), "OPEN_MPI_INTERFACE": interface or "", "LD_PRELOAD": preload}


def agents() -> list[str]:
    """Return mpirun's options that start its daemons on other hosts with LD_PRELOAD and OPEN_MPI_TOKEN."""
    return ["--mca", "plm_rsh_agent", f"{_SCRIPT} ssh -x", "--mca", "orte_launch_agent", f"{_SCRIPT} orted"]
