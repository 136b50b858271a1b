"""Check the facts that hosts have reported about themselves, such as their versions of packages.

A finding says what a check found on one host, and how to fix it if something is wrong. If a value must be the same on
all hosts, the hosts whose value differs from that of most hosts are reported as wrong. If there are only two hosts, the
second one is reported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from app.hosts import probe
from app.hosts.hostfile import Host
from app.hosts.remote import Answer

OK, WARN, FAIL = "ok", "warn", "FAIL"
GIB, MIB = 2**30, 2**20
# The free bytes of /dev/shm that a slot needs: 8 loader processes, each with 4 batches of 32 images of 224 x 224 x 3
# bytes, need 154 MB.
SHM_PER_SLOT = 160 * MIB
OUTPUT = 2 * GIB  # the free bytes needed for checkpoints; a checkpoint of ResNet-50 with its momentum has 200 MB
# The largest allowed difference in seconds between a host's clock and the median of all hosts' clocks. It must be
# small, because app/storage/cache.py compares the clock with modification times of files, and another host may have set
# these times.
CLOCKS = 1.0


@dataclass(frozen=True)
class HostFinding:
    """The result of one check on one host.

    Attributes:
        host: The name of the host.
        check: The name of the check.
        status: OK, WARN or FAIL.
        text: What was found.
        fix: What to do, or "" if the status is OK.
    """

    host: str
    check: str
    status: str
    text: str
    fix: str = ""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True)
class HostRequirements:
    """What a run needs of its hosts.

    Attributes:
        hosts: The hosts with their slots.
        interface: The network interface that the user gave for the traffic between hosts, or None if none was given.
        data: The folder of images, or "" if none was given.
        output: The folder that runs write to.
    """

    hosts: list[Host]
    interface: str | None
    data: str
    output: str

    def slots(self, name: str) -> int:
        return next(host.slots for host in self.hosts if host.name == name)


def check_hosts(request: HostRequirements, answers: list[Answer]) -> list[HostFinding]:
    """Return the findings of all checks. A host that did not answer has only one finding, which says so."""
    found = [_answered(answer) for answer in answers]
    there = [answer for answer in answers if answer.facts is not None]
    for check in _CHECKS:
        found += check(request, there)
    return found


def versions(request: HostRequirements, answers: list[Answer]) -> list[HostFinding]:
    """Return the findings of the checks that are made before each run.

    These checks are fast: they neither import torch on the hosts nor read the data there.
    """
    found = [_answered(answer) for answer in answers]
    there = [answer for answer in answers if answer.facts is not None]
    for check in _BEFORE_RUNS:
        found += check(request, there)
    return found


def _answered(answer: Answer) -> HostFinding:
    if answer.facts is None:
        reason, _, fix = answer.error.partition(": ")
        return HostFinding(answer.host, "answer", FAIL, reason, fix)
    return HostFinding(answer.host, "answer", OK, "this machine" if answer.here else "by ssh, without a password")


def _listed_twice(request: HostRequirements, there: list[Answer]) -> Iterator[HostFinding]:
    """Find a machine that is listed under two names. A launcher would start the processes of both names on it."""
    known: dict[tuple[str, ...], str] = {}
    for host, facts in _facts(there):
        machine = (facts["name"], *sorted(each["address"] for each in facts["interfaces"].values()))
        if known.setdefault(machine, host) != host:
            fix = f"list {facts['name']} once, with all its slots"
            yield HostFinding(host, "machine", FAIL, f"it is the same machine as {known[machine]}", fix)


def _names(request: HostRequirements, there: list[Answer]) -> Iterator[HostFinding]:
    remote = len(request.hosts) > 1
    for host, facts in _facts(there):
        unknown = [name for name, address in facts["resolves"].items() if not address]
        loops = remote and facts["resolves"][facts["name"]].startswith("127.")
        fix = f"add {', '.join(unknown)} to /etc/hosts there, or to DNS"
        if unknown:
            yield HostFinding(host, "names", FAIL, f"{', '.join(unknown)} does not resolve there", fix)
        elif loops:
            own = facts["name"]
            fix = f"give {own} its address on the network in /etc/hosts there: gloo tells this address to the others"
            yield HostFinding(host, "names", FAIL, f"its own name {own} has the address {facts['resolves'][own]}", fix)
        else:
            yield HostFinding(host, "names", OK, "all names resolve")


def _python(request: HostRequirements, there: list[Answer]) -> Iterator[HostFinding]:
    install = "copy the project to the same folder there and run ./run.sh setup"
    yield from _hangs("python", there)
    yield from _same("python", _answering("python", there), _python_version, install)


def _python_version(facts: dict[str, Any]) -> str:
    return ".".join(facts["python"].split(".")[:2])


def _hangs(program: str, there: list[Answer]) -> Iterator[HostFinding]:
    for host, facts in _facts(there):
        if program in facts["hanging"]:
            fix = "its disk may be slow or hang: look at dmesg there, and try again"
            yield HostFinding(host, program, FAIL, f"gave no answer within {probe.PATIENCE} s", fix)


def _answering(program: str, there: list[Answer]) -> list[Answer]:
    return [answer for answer in there if answer.facts and program not in answer.facts["hanging"]]


def _packages(request: HostRequirements, there: list[Answer]) -> Iterator[HostFinding]:
    for name in sorted({name for _, facts in _facts(there) for name in facts["packages"]}):
        of = _version_of(name)
        yield from _same(name, there, of, "run ./run.sh setup there, with the same requirements.txt")


def _version_of(name: str) -> Callable[[dict[str, Any]], str]:
    return lambda facts: str(facts["packages"].get(name, ""))


def _app(request: HostRequirements, there: list[Answer]) -> Iterator[HostFinding]:
    commits = {facts["app"]: facts["git"] for _, facts in _facts(there)}
    fix = "bring it to the same commit with the same changes: git status there shows them"
    for finding in _same("app", there, lambda facts: str(facts["app"]), fix):
        commit = next((commits[digest] for digest in commits if digest and digest in finding.text), "")
        yield HostFinding(
            finding.host, "app", finding.status, finding.text + (f", commit {commit}" if commit else ""), finding.fix
        )


def _mpirun(request: HostRequirements, there: list[Answer]) -> Iterator[HostFinding]:
    fix = "install the same Open MPI there: ./run.sh setup does"
    yield from _hangs("mpirun", there)
    yield from _same("mpirun", _answering("mpirun", there), lambda facts: facts["mpirun"].partition("\n")[0], fix)
    closed = any(facts["mpi_token"] for _, facts in _facts(there))
    for host, facts in _facts(there):
        if facts["mpirun"] and "Open MPI" not in facts["mpirun"]:
            yield HostFinding(
                host, "mpirun", FAIL, "it is not Open MPI's", "put Open MPI's mpirun first on the PATH there"
            )
        elif facts["mpirun"] and not facts["orted"]:
            yield HostFinding(host, "mpirun", FAIL, "no orted on the PATH of its ssh sessions", fix)
        elif facts["mpirun"] and facts["app"] and not facts["mpi_token"]:
            words = "it lacks the library that closes the ports of Open MPI to strangers"
            # If only some hosts have the library, a run on all of them ends with an error.
            yield HostFinding(host, "mpirun", FAIL if closed else WARN, words, "run ./run.sh setup there")


def _libraries(request: HostRequirements, there: list[Answer]) -> Iterator[HostFinding]:
    again = "run ./run.sh setup there: it compiles Horovod for the torch of this host"
    good = [answer for answer in there if answer.facts and not answer.facts["libraries"].get("error")]
    for host, facts in _facts(there):
        if error := facts["libraries"].get("error"):
            yield HostFinding(host, "build", FAIL, f"torch, Horovod and mpi4py cannot be imported: {error}", again)
        elif not facts["libraries"]["built"]:
            yield HostFinding(host, "build", FAIL, "Horovod has none of nccl, mpi, gloo", again)
    yield from _same("build", good, lambda facts: "Horovod has " + ", ".join(facts["libraries"]["built"]), again)
    for host, facts in _facts(good):
        libraries = facts["libraries"]["libmpi"]
        one = len(libraries) == 1
        fix = "keep one Open MPI on LD_LIBRARY_PATH and run ./run.sh setup there: with two, hvd.init() hangs"
        text = f"Horovod and mpi4py load {', '.join(libraries) or 'no libmpi'}"
        yield HostFinding(host, "libmpi", OK if one else FAIL, text, "" if one else fix)


def _gpus(request: HostRequirements, there: list[Answer]) -> Iterator[HostFinding]:
    yield from _same("GPU driver", there, _driver, "install the same driver there", status=WARN, empty="no GPU")
    for host, facts in _facts(there):
        slots, gpus, cores = request.slots(host), len(facts["gpus"]), facts["cores"]
        libraries = facts["libraries"]
        if "nvidia-smi" in facts["hanging"]:
            what = "nvidia-smi gave no answer: its driver may hang"
            yield HostFinding(host, "GPUs", FAIL, what, "look at dmesg there; a restart of the host helps")
        elif gpus and not libraries.get("error") and not libraries["cuda"]:
            what = f"torch can use none of {gpus} GPUs: it is made for CUDA {libraries['torch_cuda'] or 'none'}"
            yield HostFinding(host, "GPUs", FAIL, what, "install a driver for this CUDA, or a torch for this driver")
        elif gpus and slots > gpus:
            fix = f"give {host} slots={gpus} in the host file: each process needs a GPU"
            yield HostFinding(host, "slots", FAIL, f"{slots} slots but {gpus} GPUs", fix)
        elif not gpus and slots > cores:
            fix = f"give {host} slots={cores} in the host file: more processes than cores slow each other down"
            yield HostFinding(host, "slots", WARN, f"{slots} slots but {cores} cores", fix)
        else:
            has = f"{gpus} GPUs" if gpus else f"{cores} cores, no GPU"
            yield HostFinding(host, "slots", OK, f"{slots} for {has}")


def _driver(facts: dict[str, Any]) -> str:
    drivers = sorted({line.rpartition(",")[2].strip() for line in facts["gpus"]})
    return ", ".join(drivers)


def _shm(request: HostRequirements, there: list[Answer]) -> Iterator[HostFinding]:
    for host, facts in _facts(there):
        wanted, free = SHM_PER_SLOT * request.slots(host), facts["shm"]
        text = f"{free / MIB:.0f} MiB free, {wanted / MIB:.0f} MiB needed by loader processes"
        fix = "start the container with docker run --shm-size 8g, or run `mount -o remount,size=8g /dev/shm` there"
        yield HostFinding(host, "/dev/shm", OK if free >= wanted else FAIL, text, "" if free >= wanted else fix)


def _locks(request: HostRequirements, there: list[Answer]) -> Iterator[HostFinding]:
    for host, facts in _facts(there):
        if facts["no_locks"]:
            fix = "remove what fills it (`ls -l /dev/shm`), or give it more room (docker run --shm-size 8g)"
            yield HostFinding(host, "/dev/shm", FAIL, f"supports no locks ({facts['no_locks']})", fix)


def _memlock(request: HostRequirements, there: list[Answer]) -> Iterator[HostFinding]:
    for host, facts in _facts(there):
        limit = facts["memlock"]
        text = "unlimited" if limit < 0 else f"{limit // 1024} KiB may be locked"
        if limit >= 0 and facts["infiniband"]:
            fix = "set memlock to unlimited in /etc/security/limits.conf there, or give docker run --ulimit memlock=-1"
            yield HostFinding(host, "memlock", FAIL, f"{text}, which is too little for InfiniBand", fix)
        else:
            yield HostFinding(host, "memlock", OK, text)


def _output(request: HostRequirements, there: list[Answer]) -> Iterator[HostFinding]:
    for host, facts in _facts(there):
        free, at = facts["output"]["free"], facts["output"]["there"]
        if not facts["output"]["writable"]:
            fix = f"give another --output, or the permission to write to {at}"
            yield HostFinding(host, "output", FAIL, f"{at} cannot be written to", fix)
        elif free < OUTPUT:
            fix = f"free {OUTPUT / GIB:g} GiB there for checkpoints, or give another --output"
            yield HostFinding(host, "output", FAIL, f"{at} has {free / MIB:.0f} MiB free", fix)
        else:
            yield HostFinding(host, "output", OK, f"{at} has {free / GIB:.0f} GiB free")


def _data(request: HostRequirements, there: list[Answer]) -> Iterator[HostFinding]:
    if not request.data:
        return
    for host, facts in _facts(there):
        if facts["data"]["error"] or not facts["data"]["files"]:
            reason = facts["data"]["error"] or "it is empty"
            fix = f"mount or copy the data to {request.data} there"
            yield HostFinding(host, "data", FAIL, f"{request.data} cannot be read: {reason}", fix)
    good = [each for each in there if each.facts and each.facts["data"]["files"] and not each.facts["data"]["error"]]
    yield from _same("data", good, _files, f"copy {request.data} there again: rsync -a --delete")


def _files(facts: dict[str, Any]) -> str:
    return f"{facts['data']['files']} files, fingerprint {facts['data']['digest']}"


def _clocks(request: HostRequirements, there: list[Answer]) -> Iterator[HostFinding]:
    middle = sorted(answer.ahead for answer in there)[(len(there) - 1) // 2] if there else 0.0
    for answer in there:
        ahead = answer.ahead - middle
        good = abs(ahead) <= CLOCKS
        text = "within a second of the others" if good else f"{abs(ahead):.0f} s {'ahead' if ahead > 0 else 'behind'}"
        fix = "" if good else "let chrony or ntpd set the clock there: `timedatectl set-ntp true`"
        yield HostFinding(answer.host, "clock", OK if good else FAIL, text, fix)


def _interface(request: HostRequirements, there: list[Answer]) -> Iterator[HostFinding]:
    for host, facts in _facts(there):
        names = facts["interfaces"]
        if request.interface and request.interface not in names:
            listed = ", ".join(names) or "none that is up"
            fix = "give --interface one that every host has, or leave it out"
            yield HostFinding(host, "interface", FAIL, f"there is no {request.interface}: it has {listed}", fix)
        elif not names and len(request.hosts) > 1:
            yield HostFinding(
                host, "interface", WARN, "none with an IPv4 address is up", "run `ip link set IF up` there"
            )
        else:
            yield HostFinding(
                host, "interface", OK, ", ".join(f"{n} {i['address']}" for n, i in names.items()) or "none"
            )


def _mtu(request: HostRequirements, there: list[Answer]) -> Iterator[HostFinding]:
    if len(there) > 1:
        fix = (
            "set the same MTU there with `ip link set IF mtu N`: large messages hang between hosts with different ones"
        )
        yield from _same("MTU", there, lambda facts: _between(request, facts), fix, empty="no common network")


def _between(request: HostRequirements, facts: dict[str, Any]) -> str:
    name = route_interface(request, facts)
    return str(facts["interfaces"][name]["mtu"]) if name else ""


def route_interface(request: HostRequirements, facts: dict[str, Any]) -> str:
    """Return the interface through which a host reaches the other hosts, or "" if there is none."""
    if request.interface:
        return request.interface if request.interface in facts["interfaces"] else ""
    addresses = {address for name, address in facts["routes"].items() if facts["resolves"].get(name) != address}
    return next((name for name, each in facts["interfaces"].items() if each["address"] in addresses), "")


def _same(
    check: str,
    there: list[Answer],
    of: Callable[[dict[str, Any]], str],
    fix: str,
    *,
    status: str = FAIL,
    empty: str = "",
) -> Iterator[HostFinding]:
    """Compare a value between the hosts. Yield a finding for each host: whether it has the same value as most hosts.

    Args:
        check: The name of the check.
        there: The answers of the hosts.
        of: Returns the value of a host from its facts.
        fix: What to do on a host with another value.
        status: The status of the finding for a host with another value.
        empty: The text that findings show for an empty value, or "" if an empty value is always a fault.
    """
    values = {host: of(facts) for host, facts in _facts(there)}
    most = Counter(value for value in values.values() if value or empty).most_common(1)
    usual = most[0][0] if most else ""
    for host, value in values.items():
        if value == usual and (value or empty):
            yield HostFinding(host, check, OK, value or empty)
        else:
            other = next((name for name, each in values.items() if each == usual), "")
            against = f", {other} has {usual or empty}" if usual or empty else ""
            yield HostFinding(host, check, status, f"{value or empty or 'missing'}{against}", fix)


def _facts(there: list[Answer]) -> Iterator[tuple[str, dict[str, Any]]]:
    for answer in there:
        assert answer.facts is not None
        yield answer.host, answer.facts


_CHECKS = (
    _listed_twice, _names, _python, _packages, _app, _libraries, _mpirun, _gpus, _locks, _shm, _memlock, _output,
    _data, _clocks, _interface, _mtu,
)  # fmt: skip
_BEFORE_RUNS = (_listed_twice, _python, _packages, _app, _locks, _interface)
