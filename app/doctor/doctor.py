"""Look for faults of the hosts that would stop or slow a run, then measure the network between the hosts.

The hosts are asked by ssh, and need only python3 to answer. The network is measured only if a run could start on the
hosts.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
import sys
from typing import Any

from app.hosts.checks import FAIL, OK, WARN, HostFinding, HostRequirements, check_hosts, route_interface
from app.hosts.remote import Answer, Patience, Ssh, ask
from app.launch import job

ENOUGH = 0.5  # the accepted share of the expected bandwidth, low because one TCP stream rarely reaches 100 Gbit/s
HARMLESS = ("data", "output", "clock", "/dev/shm")  # if one of these checks fails, the network is measured anyway


def examine(request: HostRequirements, ssh: Ssh, timeout: float, launching: list[str]) -> list[HostFinding]:
    """Check the hosts, measure the network between them, and return all findings.

    Args:
        request: The hosts of the run, and what the run needs on them.
        ssh: The options of ssh.
        timeout: The seconds to wait for the answers of the hosts, and again for the measurement.
        launching: The launch options of a run on these hosts.
    """
    names = [host.name for host in request.hosts]
    patience = Patience(timeout, timeout, "--timeout")
    answers = ask(names, ssh, patience, deep=True, data=request.data, output=request.output)
    found = check_hosts(request, answers)
    if any(each.status == FAIL and each.check not in HARMLESS for each in found):
        skipped = HostFinding("all", "allreduce", WARN, "not tried", "fix the faults above, then run doctor again")
        return [*found, skipped]
    return found + _measure(request, answers, timeout, launching)


def _measure(
    request: HostRequirements, answers: list[Answer], timeout: float, launching: list[str]
) -> list[HostFinding]:
    command = [sys.executable, "-m", "app.doctor.bandwidth", *launching]
    code, out, err = _run(command, timeout)
    if code is None:
        fix = "look for a firewall between the hosts (all ports must be open), or give --interface"
        return [HostFinding("all", "allreduce", FAIL, f"not finished after {timeout:g} s", fix)]
    if code != 0:
        said = [line for line in err.splitlines() if line.startswith("error: ")] or err.strip().splitlines()[-1:]
        reason = "".join(said[:1]).removeprefix("error: ")
        return [HostFinding("all", "allreduce", FAIL, reason, f"try {shlex.join(command)}")]
    return judge(json.loads(out.strip().splitlines()[-1]), interface_speed(request, answers))


def interface_speed(request: HostRequirements, answers: list[Answer]) -> float:
    """Return the speed in Gbit/s of the slowest interface through which a host reaches the other hosts.

    The operating systems of the hosts report these speeds. The result is 0 if no speed is reported.
    """
    facts = [answer.facts for answer in answers if answer.facts]
    used = [each["interfaces"].get(route_interface(request, each), {}) for each in facts]
    return min((interface["speed"] for interface in used if interface.get("speed")), default=0) / 1000


def judge(measured: dict[str, Any], speed: float) -> list[HostFinding]:
    """Return findings about the bandwidths that app.doctor.bandwidth has measured.

    Args:
        measured: The JSON object that app.doctor.bandwidth prints.
        speed: The speed in Gbit/s that the slowest interface reports, or 0 if it is not known.
    """
    found, stream = measured["allreduce"], measured["stream"]
    text = (
        f"{found:.2f} Gbit/s by {measured['collectives']} between {measured['processes']} processes"
        f" ({measured['bytes'] / 1e6:.0f} MB in {measured['seconds']:.2f} s)"
    )
    if measured["hosts"] == 1:
        return [HostFinding("all", "allreduce", OK, text)]
    stated = f"the interface states {speed:g}" if speed else "the interface does not state its speed"
    return [
        _compare("network", f"{stream:.2f} Gbit/s from each host to the next; {stated}", stream, speed, _NETWORK),
        _compare("allreduce", f"{text}; a TCP stream reaches {stream:.2f}", found, stream, _ALLREDUCE),
    ]


_NETWORK = "give the fastest interface with --interface, and look for other traffic or a slow switch"
_ALLREDUCE = "look for busy cores, or for more slots than cores"


def _compare(check: str, text: str, found: float, wanted: float, fix: str) -> HostFinding:
    good = found >= ENOUGH * wanted
    return HostFinding("all", check, OK if good else WARN, text, "" if good else fix)


def _run(command: list[str], timeout: float) -> tuple[int | None, str, str]:
    """Return (exit code, stdout, stderr) of a command. The exit code is None if the command did not end in time."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            out, err = process.communicate(timeout=timeout)
            return process.returncode, out, err
        except subprocess.TimeoutExpired:
            # After the first SIGTERM, app.launch.launch asks its job to end. After the second, it kills the job.
            process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(2)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(job.GRACE)
        process.kill()
        out, err = process.communicate()
        return None, out, err
