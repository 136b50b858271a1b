"""Check the other hosts before a launch, so that the user sees one clear line and no obscure error of a launcher."""

from __future__ import annotations

import threading

from app.base.errors import UserError
from app.hosts import hostfile, probe, this_host
from app.hosts.checks import FAIL, HostRequirements, route_interface, versions
from app.hosts.remote import Answer, Patience, Ssh, ask
from app.launch.command_line import LAUNCHERS, Launch

PATIENCE = Patience(20.0, 60.0)  # how long a host may take to answer before a launch
SHORT = Patience(5.0, 5.0)  # how long a host may take to answer after a failure


def other_hosts(launch: Launch) -> list[str]:
    """Return the names of the hosts that get processes, except this host."""
    counts = hostfile.processes_on(launch.hosts, launch.processes)
    used = [host.name for host, count in zip(launch.hosts, counts, strict=True) if count]
    return [name for name in used if not this_host.is_here(name)]


def check_hosts(launch: Launch) -> str:
    """Ask the hosts of a run for their versions and interfaces.

    An elastic run may start without a host that does not answer.

    Returns:
        The interface that horovodrun must use, or "" if the launcher finds one itself.

    Raises:
        UserError: A host does not answer, has other versions, or does not have --interface.
    """
    if not other_hosts(launch) and not launch.elastic:
        return ""
    counts = hostfile.processes_on(launch.hosts, launch.processes)
    hosts = [host for host, count in zip(launch.hosts, counts, strict=True) if count or launch.elastic]
    here = [host for host in hosts if this_host.is_here(host.name)]
    if launch.elastic:  # each slot of this machine is listed as a separate host
        hosts = [host for host in hosts if host not in here[1:]]
        del here[1:]
    names = [host.name for host in (here + [host for host in hosts if host not in here])]
    # Ranks also connect to horovodrun on this machine. So this machine is asked too, even if no rank runs on it.
    if not here and LAUNCHERS[launch.launcher].one_interface and (address := probe.route(names[0])):
        names.insert(0, address)
    answers = ask(names, Ssh(launch.ssh_port, launch.ssh_identity), PATIENCE)
    request = HostRequirements(hosts, launch.interface, "", "")
    bad = [each for each in versions(request, answers) if each.status == FAIL]
    if launch.elastic:
        bad = [each for each in bad if each.check != "answer"]
    if bad:
        more = f" ({len(bad) - 1} more of this kind: ./run.sh doctor)" if len(bad) > 1 else ""
        what = "" if bad[0].check in ("answer", "machine") else f"{bad[0].check} "
        raise UserError(f"{bad[0].host}: {what}{bad[0].text}: {bad[0].fix}{more}")
    return _common_interface(request, answers) if LAUNCHERS[launch.launcher].one_interface else ""


def _common_interface(request: HostRequirements, answers: list[Answer]) -> str:
    """Return the interface through which all hosts reach each other.

    Horovod can also search for this interface. But it would start a server on each host and put a secret key on the
    server's command line, where all users can read the key.

    Raises:
        UserError: This interface does not have the same name on all hosts.
    """
    names = {each.host: route_interface(request, each.facts) for each in answers if each.facts}
    if len(set(names.values())) > 1:
        listed = ", ".join(f"{host}: {name or 'none'}" for host, name in names.items())
        raise UserError(
            f"the hosts reach each other through interfaces with different names ({listed}): give --interface one that"
            " all hosts have, or --launcher mpirun, which needs no common name"
        )
    return next(iter(names.values()), "")


class Search:
    """A thread that looks for hosts of a failing job that cannot be reached by ssh any more.

    Attributes:
        found: A text that names these hosts, or "".
    """

    def __init__(self, launch: Launch) -> None:
        self.found = ""
        self._launch = launch
        self._thread = threading.Thread(target=self._search, daemon=True)
        self._thread.start()

    def result(self) -> str:
        """Wait for the end of the search. Return a text about the hosts that do not answer by ssh, or "" if all do."""
        self._thread.join()
        return self.found

    def _search(self) -> None:
        try:
            answers = ask(other_hosts(self._launch), Ssh(self._launch.ssh_port, self._launch.ssh_identity), SHORT)
        except UserError:  # there is no ssh; the job has failed for this reason and has printed it
            return
        self.found = "; ".join(f"{each.host} does not answer by ssh now" for each in answers if not each.reached)
