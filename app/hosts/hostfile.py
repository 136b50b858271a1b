"""Read hosts and their slots in the forms that horovodrun and mpirun accept. A slot is room for one process.

A host file has one host per line: `name`, `name:8`, `name slots=8` or `name slots=8 max_slots=16` (or `max-slots`). It
may have blank lines and `#` comments. A name without a number has one slot. max_slots is read but not used. The option
-H accepts `name` and `name:8`, separated by commas. Host names consist of letters, digits, dots, hyphens and
underscores, none of which has a special meaning for a shell.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from app.base.errors import UserError

_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252}[A-Za-z0-9_])?")
_HOST = re.compile(r"(?P<bracketed>\[[0-9A-Fa-f:.]+\])(:(?P<slots6>[^:]*))?|(?P<name>[^:]+)(:(?P<slots>[^:]*))?")
_LIKE = "write `name slots=8` or `name:8`"


@dataclass(frozen=True)
class Host:
    """The name or address of a host (IPv6 without brackets), and the largest number of processes on it."""

    name: str
    slots: int


def read_hostfile(path: str) -> list[Host]:
    """Return the hosts in a host file, in the order of its lines. Raises UserError if the file is missing or wrong."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UserError(
            f"the host file {path} cannot be read ({reason}): give --hostfile a text file with one host in each line"
        ) from None
    hosts = parse_lines(lines, path)
    if not hosts:
        raise UserError(f"the host file {path} names no host: {_LIKE}, one host in each line")
    return hosts


def parse_lines(lines: list[str], name: str) -> list[Host]:
    """Return the hosts in the lines of a host file or of a script's output. Raises UserError if a line is wrong.

    Args:
        lines: The lines. If they contain no host, the result is empty.
        name: Where the lines come from, for example the path of a file, for messages.
    """
    entries = [
        (f"{name}, line {number}", _fields(line, f"{name}, line {number}")) for number, line in enumerate(lines, 1)
    ]
    return _distinct((place, _parse(fields, place)) for place, fields in entries if fields)


def parse_hosts(text: str) -> list[Host]:
    """Return the hosts in the value of -H, such as `a:8,b:8`. Raises UserError if an entry is wrong."""
    entries = [(f"-H {text!r}, entry {number}", entry.split()) for number, entry in enumerate(text.split(","), start=1)]
    for place, fields in entries:
        if len(fields) != 1:
            raise UserError(f"{place}: {' '.join(fields) or 'empty'}: separate hosts by commas, as in -H a:8,b:8")
    return _distinct((place, _parse(fields, place)) for place, fields in entries)


def check_slots(hosts: list[Host], processes: int) -> None:
    """Raise UserError if there are fewer slots than processes."""
    slots = sum(host.slots for host in hosts)
    if processes > slots:
        listed = ", ".join(f"{host.name}:{host.slots}" for host in hosts[:8]) + (", ..." if len(hosts) > 8 else "")
        raise UserError(
            f"-np {processes} wants more processes than there are slots ({slots}: {listed}): give the hosts more slots"
        )


def launcher_hosts(hosts: list[Host]) -> str:
    """Return hosts in the form `a:8,b:8` for a launcher. Raises UserError for IPv6 addresses: launchers refuse them."""
    for host in hosts:
        if ":" in host.name:
            raise UserError(
                f"the launchers cannot start on the IPv6 address {host.name}: name it in /etc/hosts and give the name"
            )
    return ",".join(f"{host.name}:{host.slots}" for host in hosts)


def processes_on(hosts: list[Host], processes: int) -> list[int]:
    """Return how many of a run's `processes` are on each host. The launchers fill the hosts one after another."""
    counts = []
    for host in hosts:
        counts.append(min(host.slots, processes))
        processes -= counts[-1]
    return counts


def _fields(line: str, place: str) -> list[str]:
    """Return the words of a line without its comment. `slots = 4` counts as one word, like in Open MPI."""
    text, hash_sign, comment = line.partition("#")
    if hash_sign and "slots" in comment and re.fullmatch(r"\s*[^\s:]+", text):
        raise UserError(
            f"{place}: a comment begins at the # in {line.split()[0]!r}: put a space before it, or remove it"
        )
    return re.sub(r"\s*=\s*", "=", text).split()


def _parse(fields: list[str], place: str) -> Host:
    found = _HOST.fullmatch(fields[0])
    if _is_address(fields[0]):
        raise UserError(f"{place}: {fields[0]}: write an IPv6 address in brackets, as in [{fields[0]}]:8")
    if not found:
        raise UserError(f"{place}: {fields[0]!r} is not a host: {_LIKE}")
    name = _address(found["bracketed"][1:-1], place) if found["bracketed"] else _name(found["name"], place)
    after_colon = found["slots6"] if found["bracketed"] else found["slots"]
    counts = dict(_count(field, place) for field in fields[1:])
    if after_colon is not None:
        if "slots" in counts:
            raise UserError(f"{place}: {name} has its slots twice: {_LIKE}")
        counts["slots"] = _positive(after_colon, place)
    max_slots = counts.get("max_slots")
    slots = counts.get("slots", 1)
    if max_slots is not None and max_slots < slots:
        raise UserError(f"{place}: {name} has slots={slots} but max_slots={max_slots}: max_slots must not be smaller")
    return Host(name, slots)


def _count(field: str, place: str) -> tuple[str, int]:
    key, equals, value = field.partition("=")
    key = key.replace("-", "_")
    if not equals or key not in ("slots", "max_slots"):
        raise UserError(f"{place}: cannot read {field!r}: {_LIKE}")
    return key, _positive(value, place)


def _positive(text: str, place: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", text) or int(text) == 0:
        raise UserError(f"{place}: {text!r} is not a number of slots: give 1 or more, or take the host out")
    return int(text)


def _name(text: str, place: str) -> str:
    if not _NAME.fullmatch(text):
        raise UserError(f"{place}: {text!r} is not a host name: only letters, digits, dots, hyphens and underscores")
    return text


def _is_address(text: str) -> bool:
    try:
        return bool(ipaddress.IPv6Address(text))
    except ValueError:
        return False


def _address(text: str, place: str) -> str:
    try:
        return str(ipaddress.IPv6Address(text))
    except ValueError:
        raise UserError(f"{place}: [{text}] is not an IPv6 address") from None


def _distinct(places: Iterable[tuple[str, Host]]) -> list[Host]:
    hosts: dict[str, Host] = {}
    for place, host in places:
        if host.name in hosts:
            raise UserError(f"{place}: {host.name} is listed twice: give it one line with all its slots")
        hosts[host.name] = host
    return list(hosts.values())
