"""horovodrun with changes to Horovod's launcher. `python -m app.launch.horovodrun` has the options of horovodrun."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

from horovod.runner import gloo_run, launch
from horovod.runner.elastic import discovery
from horovod.runner.elastic.discovery import HostDiscovery
from horovod.runner.util import network

from app.hosts.discover import discover, split_local
from app.launch import horovodrun_ranks
from app.launch.elastic_driver import MeetingDriver
from app.launch.job import GRACE
from app.world import rendezvous
from app.world.rendezvous import ClosedServer

_addresses_of_interfaces = network.get_local_host_addresses


def _local_addresses() -> set[str]:
    """Return the addresses of this host, including all loopback addresses.

    app/hosts/discover.py uses loopback addresses as names for the slots of this machine. Horovod must know that they
    are addresses of this host. Otherwise it would start the processes of these slots by ssh.
    """
    return _addresses_of_interfaces() | {f"127.0.0.{number}" for number in range(1, 255)}


network.get_local_host_addresses = _local_addresses


class Discovery(HostDiscovery):
    """The hosts that the user's script prints. Each local slot is a separate host (see app/hosts/discover.py).

    Horovod asks for the hosts every second. Horovod's own class would start two Python processes each time. This class
    only runs the script.
    """

    def __init__(self, script: str, slots: int | None) -> None:
        """Store the discovery script. `slots` is not used here, because the script prints the slots of each host."""
        self._script = script

    def find_available_hosts_and_slots(self) -> dict[str, int]:
        return {host.name: host.slots for host in split_local(discover(self._script))}


discovery.HostDiscoveryScript = Discovery

_execve = os.execve


def _exec_without_shell(path: str, argv: list[str], environ: Any) -> None:
    """Replace the shell in `sh -c "mpirun ..."` of horovodrun --mpi by mpirun, so that signals reach mpirun."""
    _execve(path, [*argv[:-1], f"exec {argv[-1]}"], environ)


def close_to_strangers() -> None:
    """Make the servers of horovodrun answer only the processes of this job."""
    static, elastic = launch.gloo_run, launch.gloo_run_elastic

    def run(settings: Any, nics: Any, environ: Any, address: str, command: Any) -> None:
        server = _serve_on(address, settings)
        static(settings, nics, environ, server, command)

    def run_elastic(settings: Any, *arguments: Any) -> Any:
        _serve_on(network.get_driver_ip(settings.nics or ["lo"]), settings)
        return elastic(settings, *arguments)

    launch.gloo_run, launch.gloo_run_elastic = run, run_elastic
    gloo_run.create_rendezvous_handler = rendezvous.elastic_handler
    gloo_run.ElasticDriver = MeetingDriver
    rendezvous.close_services()


def _serve_on(address: str, settings: Any) -> str:
    """Make the HTTP server by which the ranks find each other listen on this address only and require a token.

    Return the address.
    """
    server = ClosedServer(address, settings.verbose)
    variables = gloo_run.create_run_env_vars
    gloo_run.RendezvousServer = lambda verbose: server
    gloo_run.create_run_env_vars = lambda address, *rest: variables(server.environment_address(), *rest)
    return address


def _end_after_parent(parent: int) -> None:
    """Wait until ./run.sh has ended. Some seconds later, kill this process and the others in its process group.

    If ./run.sh is killed, the kernel sends SIGTERM to this process. Usually this process then ends the ranks and
    itself. But SIGTERM does not end it while it waits for hosts of an elastic run.
    """
    while os.getppid() == parent:
        time.sleep(1)
    time.sleep(GRACE)
    os.killpg(0, signal.SIGKILL)


def _is_built(verbose: bool = False) -> bool:
    """Answer Horovod's question whether gloo or MPI was built into it. app/setup/build_horovod.sh builds both.

    Horovod would import torch to find out, which would delay the start of the ranks by more than a second.
    """
    return True


def main() -> None:
    launch.gloo_built = launch.mpi_built = _is_built
    horovodrun_ranks.install()
    close_to_strangers()
    os.execve = _exec_without_shell  # type: ignore[assignment]
    # The process group may be killed only if ./run.sh has started this process in a new session. Otherwise the group
    # may contain other programs of the user.
    if os.getsid(0) == os.getpid():
        threading.Thread(target=_end_after_parent, args=(os.getppid(),), daemon=True).start()
    launch.run_commandline()


if __name__ == "__main__":
    main()
