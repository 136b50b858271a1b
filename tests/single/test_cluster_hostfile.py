"""Host files and -H accept the forms of horovodrun and of mpirun."""

import re
from pathlib import Path

import pytest

from app.base.errors import UserError
from app.hosts.hostfile import Host, check_slots, launcher_hosts, parse_hosts, processes_on, read_hostfile

FOLDER = Path(__file__).parents[2] / "hostfiles"

LINES = [
    ("node1 slots=8", Host("node1", 8)),
    ("node1:8", Host("node1", 8)),
    ("node1 slots=8 max_slots=16", Host("node1", 8)),
    ("node1   max-slots=4\tslots=4  # rack 3", Host("node1", 4)),
    ("node1", Host("node1", 1)),
    ("gpu-7.rack_2.example.org slots=2", Host("gpu-7.rack_2.example.org", 2)),
    ("10.0.0.7:2", Host("10.0.0.7", 2)),
    ("[fe80::1]:4", Host("fe80::1", 4)),
    ("[2001:DB8::7] slots=4", Host("2001:db8::7", 4)),
    ("node1 slots = 4", Host("node1", 4)),
    ("node1 slots= 4 max_slots =8", Host("node1", 4)),
    ("node1 slots=4# rack 3", Host("node1", 4)),
    ("node1# rack 3", Host("node1", 1)),
]

WRONG_LINES = [
    ("node1 slots=0", "'0' is not a number of slots: give 1 or more"),
    ("node1:", "'' is not a number of slots"),
    ("node1:two", "'two' is not a number of slots"),
    ("node1 slots=-1", "'-1' is not a number of slots"),
    ("node1 slots=9999999", "is not a number of slots"),
    ("node1 8", "cannot read '8': write `name slots=8` or `name:8`"),
    ("node1 cores=8", "cannot read 'cores=8'"),
    ("node1:8 slots=8", "node1 has its slots twice"),
    ("node1 slots=4 max_slots=2", "max_slots must not be smaller"),
    ("fe80::1", "write an IPv6 address in brackets, as in [fe80::1]:8"),
    ("[fe80::zz]:4", "is not"),
    ("-oProxyCommand=reboot", "is not a host name"),
    ("node1;reboot", "is not a host name"),
    ("$(reboot)", "is not a host name"),
    ("`reboot`:2", "is not a host name"),
    ("node1|tee", "is not a host name"),
    ("user@node1", "is not a host name"),
    ("node1. slots=2", "is not a host name"),
    ("nöde slots=2", "is not a host name"),
    ("node1#c slots=2", "a comment begins at the # in 'node1#c': put a space before it, or remove it"),
    ("node1:2:3", "'node1:2:3' is not a host: write `name slots=8` or `name:8`"),
]


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "hosts"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(("line", "host"), LINES)
def test_a_line(line: str, host: Host, tmp_path: Path) -> None:
    assert read_hostfile(write(tmp_path, f"# the cluster\n\n{line}\n   \n")) == [host]


@pytest.mark.parametrize(("line", "said"), WRONG_LINES)
def test_a_wrong_line(line: str, said: str, tmp_path: Path) -> None:
    path = write(tmp_path, f"# the cluster\n\nnode0 slots=2\n{line}\n")
    with pytest.raises(UserError, match=re.escape(said)) as raised:
        read_hostfile(path)
    assert str(raised.value).startswith(f"{path}, line 4: ")


def test_a_file_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("node1 slots=4\r\nnode2:2\r\n", encoding="utf-8-sig")
    assert read_hostfile(str(tmp_path / "hosts")) == [Host("node1", 4), Host("node2", 2)]


def test_the_same_host_twice(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="line 3: node1 is listed twice: give it one line with all its slots"):
        read_hostfile(write(tmp_path, "node1 slots=2\nnode2 slots=2\nnode1 slots=4\n"))


@pytest.mark.parametrize("text", ["", "\n\n", "# node1\n"])
def test_an_empty_file(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="names no host"):
        read_hostfile(write(tmp_path, text))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name, reason in [("missing", "No such file"), ("", "Is a directory"), ("binary", "it is not text")]:
        with pytest.raises(UserError, match=reason):
            read_hostfile(str(tmp_path / name))


def test_hosts_option() -> None:
    assert parse_hosts("a:8,b:4,c,[::1]:2") == [Host("a", 8), Host("b", 4), Host("c", 1), Host("::1", 2)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a:8 b:8", "entry 1: a:8 b:8: separate hosts by commas"),
        ("a:8,,b:8", "entry 2: empty"),
        ("a:8,b:0", "entry 2: '0' is not a number"),
        ("a:8,a:8", "entry 2: a is listed twice"),
        ("a:8;reboot", "is not a number of slots"),
        ("", "entry 1: empty"),
    ],
)
def test_a_wrong_hosts_option(text: str, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        parse_hosts(text)


def test_slots() -> None:
    hosts = [Host("a", 8), Host("b", 4)]
    check_slots(hosts, 12)
    with pytest.raises(UserError, match=r"-np 13 wants more processes than there are slots \(12: a:8, b:4\)"):
        check_slots(hosts, 13)
    assert processes_on(hosts, 12) == [8, 4]
    assert processes_on(hosts, 9) == [8, 1]
    assert processes_on(hosts, 3) == [3, 0]


def test_what_the_launchers_read() -> None:
    assert launcher_hosts([Host("a", 8), Host("10.0.0.7", 4)]) == "a:8,10.0.0.7:4"
    with pytest.raises(UserError, match="IPv6 address fe80::1: name it in /etc/hosts"):
        launcher_hosts([Host("fe80::1", 2)])


def test_the_files_of_this_project() -> None:
    assert read_hostfile(str(FOLDER / "local")) == [Host("localhost", 2)]
    assert read_hostfile(str(FOLDER / "two-nodes")) == [Host("node1", 2), Host("node2", 2)]
    paper = read_hostfile(str(FOLDER / "paper-32x8"))
    assert (len(paper), sum(host.slots for host in paper)) == (32, 256)
    assert all(path.read_text().startswith(("# ", "#!")) for path in FOLDER.iterdir())
