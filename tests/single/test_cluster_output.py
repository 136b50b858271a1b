"""The output of other ranks than rank 0 begins with `[RANK]` in each line, however the launcher's stream is cut."""

import io

import pytest

from app.base.failure import Failure, parse, parse_trace
from app.hosts.hostfile import Host
from app.launch.command_line import Launch
from app.launch.launch import _killed
from app.launch.output import Output

HOROVODRUN = (
    "Filtering\n"
    "[0]<stdout>:step 1\n[1]<stdout>:aside\n[0]<stdout>:10%\r[0]<stdout>:20%\r[1]<stderr>:oops\n[0]<stdout>:dönë\n"
)
# Open MPI may write a tag in the middle of a line. It writes no tag after a carriage return.
MPIRUN = (
    "Filtering\n"
    "[1,0]<stdout>:st[1,1]<stdout>:aside\n[1,0]<stdout>:ep 1\n"
    "[1,0]<stdout>:10%\r20%\r[1,1]<stderr>:oops\n[1,0]<stdout>:dönë\n"
)
OPEN_MPI_5 = MPIRUN.replace("[1,", "[prterun-vm-77@1,").replace(">:", ">: ")


def show(stream: str, cut: int) -> tuple[Output, str, str]:
    output = Output(io.StringIO(), io.StringIO())
    data = stream.encode()
    for start in range(0, len(data), cut):
        output.feed(data[start : start + cut])
    output.finish()
    return output, output.out.getvalue(), output.err.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("cut", [1, 2, 7, 1000])
@pytest.mark.parametrize("stream", [HOROVODRUN, MPIRUN, OPEN_MPI_5])
def test_rank_0_plainly_and_others_behind_their_rank(stream: str, cut: int) -> None:
    _, out, err = show(stream, cut)
    assert sorted(out.split("\n")) == sorted(["step 1", "[1] aside", "10%\r20%\rdönë", ""])
    assert out.index("step 1") < out.index("10%\r20%\rdönë")
    assert err == "Filtering\n[1] oops\n"


def test_the_last_line_without_its_end() -> None:
    assert show("[0]<stdout>:no newline", 3)[1] == "no newline\n"


@pytest.mark.parametrize(("job", "after"), [("1", ""), ("1", " "), ("prterun-vm-77@1", " ")])
@pytest.mark.parametrize("cut", [1, 5, 1000])
def test_a_space_where_a_tag_cuts_a_line(job: str, after: str, cut: int) -> None:
    tag = f"[{job},0]<stdout>:{after}"
    assert show(f"{tag}waiting for{tag} data\n", cut)[1] == "waiting for data\n"


FAILED = (
    "[0]<stdout>:step 1\n"
    "[1]<stderr>:app failed: rank 1 on node2, code 3: 7.jpg is no image\n"
    "[0]<stderr>:Traceback (most recent call last):\n[0]<stderr>:HorovodInternalError\n"
    "[0]<stderr>:app trace: Traceback\n"
    "[0]<stderr>:app failed: rank 0 on node1, code 1: HorovodInternalError: shut down\n"
    "[0]<stdout>:step 2\n"
    "Process 1 exit with status code 3.\nTraceback (most recent call last):\nRuntimeError: Horovod detected\n"
)


def test_a_documented_failure_silences_its_consequences() -> None:
    output, out, err = show(FAILED, 11)
    assert (out, err) == ("step 1\nstep 2\n", "")
    assert output.failure_with_code() == Failure(1, "node2", 3, "7.jpg is no image")
    assert output.traces == {0: ["Traceback"]}


def test_which_failure_is_the_cause() -> None:
    lines = [f"[0]<stderr>:{Failure(0, 'a', code, 'why')}\n" for code in (1, 75, 4)]
    assert show("".join(lines), 100)[0].failure_with_code() == Failure(0, "a", 4, "why")
    assert show("".join(lines[:2]), 100)[0].failure_with_code() == Failure(0, "a", 75, "why")
    assert show(lines[0], 100)[0].failure_with_code() is None


def test_an_unexplained_end_keeps_the_launchers_words() -> None:
    output, _, err = show("[0]<stdout>:step 1\n" + "-" * 60 + "\nThere are not enough slots\n", 9)
    assert err == ""
    assert output.kept_back == "-" * 60 + "\nThere are not enough slots\n"


@pytest.mark.parametrize(
    ("stream", "killed"),
    [
        ("Process 1 exit with status code 137.\nProcess 0 exit with status code 143.\n", (1, None, 9)),
        ("Process 1 exit with status code 1.\nProcess 0 exit with status code 143.\n", None),
        (
            "mpirun noticed that process rank 3 with PID 77 on node b exited on\nsignal 11 (Segmentation fault).\n",
            (3, "b", 11),
        ),
    ],
)
def test_a_killed_rank(stream: str, killed: tuple[int, str | None, int] | None) -> None:
    assert show(stream, 5)[0].killed() == killed


def test_a_killed_rank_that_an_elastic_run_did_not_have_at_its_start() -> None:
    """The host of a rank that joined later is not known. The message leaves it out."""
    started = Launch("horovodrun", 2, [Host("127.0.0.1", 1), Host("127.0.0.2", 1)], False, "gloo", [])
    output, _, _ = show("", 1)
    hint = "if nobody killed it, its memory ran out: dmesg shows it"
    for rank, where in ((1, " on 127.0.0.2"), (2, "")):
        assert _killed(rank, None, 9, output, started) == f"error: rank {rank}{where} was ended by SIGKILL; {hint}\n"


def test_the_line_of_a_failure() -> None:
    failure = Failure(17, "node-3.example", 2, "no folder /data:\n give --data")
    assert str(failure) == "app failed: rank 17 on node-3.example, code 2: no folder /data: give --data"
    assert parse(str(failure) + "\r\n") == Failure(17, "node-3.example", 2, "no folder /data: give --data")
    assert parse("app failed: rank x on y, code 2: z") is None
    assert parse_trace("app trace:   File\n") == "  File"
    assert parse_trace("Traceback\n") is None


def test_a_failure_that_an_elastic_run_has_survived_is_not_the_cause_of_a_later_one() -> None:
    output = Output(io.StringIO(), io.StringIO(), elastic=True)
    output.feed(
        b"[0]<stdout>:output: runs/a\n[2]<stderr>:app failed: rank 1 on node2, code 1: 7.jpg is no image\n"
        b"Process 1 exit with status code 137.\n"
    )
    assert output.failure_with_reason(None) == Failure(1, "node2", 1, "7.jpg is no image")
    assert output.err.getvalue() == "warning: rank 1 on node2: 7.jpg is no image\n"  # it was rank 2 at its start
    assert output.killed() == (1, None, 9)
    output.feed(b"[0]<stdout>:output: runs/a\n")  # the other processes have connected again
    assert output.failure_with_reason(None) is None and output.killed() is None
