"""Looks for faults of the hosts that would stop or slow a run, then measures the network between the hosts.

A host is asked by ssh and needs only python3 for its answer. The measurement needs hosts on which a run can start.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
import sys
from typing import Any

from app.hosts.checks import FAIL, OK, WARN, HostFinding, HostRequirements, check_hosts, route_interface
from app.hosts.remote import Answer, Ssh, ask
from app.launch import job

ENOUGH = 0.5  # share of the expected rate that is good enough, as one TCP stream rarely reaches 100 Gbit/s
HARMLESS = ("data", "output", "clock", "/dev/shm")  # checks whose failures do not prevent the measurement


def examine(request: HostRequirements, ssh: Ssh, timeout: float, launching: list[str]) -> list[HostFinding]:
    """Returns all findings.

    Args:
        request: The hosts of the run and what the run needs on them.
        ssh: How to reach the hosts.
        timeout: Seconds to wait for the answers of the hosts, and again for the measurement.
        launching: The launch options of a run on these hosts.
    """
    names = [host.name for host in request.hosts]
    answers = ask(names, ssh, timeout, deep=True, data=request.data, output=request.output, option="--timeout")
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
    """Returns the speed of the slowest interface between the hosts in Gbit/s, as the operating system states it.

    It is 0 if no interface states its speed.
    """
    facts = [answer.facts for answer in answers if answer.facts]
    used = [each["interfaces"].get(route_interface(request, each), {}) for each in facts]
    return min((interface["speed"] for interface in used if interface.get("speed")), default=0) / 1000


def judge(measured: dict[str, Any], speed: float) -> list[HostFinding]:
    """Returns findings about the rates that app.doctor.bandwidth measured.

    measured: its result.
    speed: the speed that the interface states, in Gbit/s, or 0 if it is not known.
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
    """Returns (exit code, stdout, stderr). The exit code is None if the command did not end in time."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            out, err = process.communicate(timeout=timeout)
            return process.returncode, out, err
        except subprocess.TimeoutExpired:
            process.terminate()  # app.launch.launch asks its job to end, and kills it after a second SIGTERM
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(2)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(job.GRACE)
        process.kill()
        out, err = process.communicate()
        return None, out, err
