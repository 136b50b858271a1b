"""Cause random faults in small training runs, and measure what each fault costs.

`python -m benchmarks.reliability --minutes N --json FILE [KIND ...]` trains on the digits in fp64 with 1 to 4 processes
on this machine. A run gets one fault after another, at random moments. The kinds of faults are in random order, and
each kind is used once before any kind is used again. If a fault ends the run, the program gives the same command again.
After each fault it checks three things:

- The checkpoint at the end of the next epoch must be equal to that of a run without faults.
- No step may be missing in the log, or be in it twice.
- If the run has ended, none of its processes may be left over.

"Seconds lost" is the longest time after the fault in which the run made no new step. Nearly all of this time is needed
to start processes.

A run is either elastic or static, that is, with a fixed number of processes. `--at-once 2` makes one run of each at the
same time. `--table FILE` writes the table of docs/reliability.md from the JSON file. The fault of a full disk needs
root, to mount a tmpfs. Without root it is left out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tests.support.jobs import Job
from tests.support.programs import RUN

# The learning rate is only 0.01, because after a fault sums are rounded differently, and with a higher rate the
# difference grows with each step. The relative difference of a momentum was 2e-14 after 5000 steps at 0.01, but 5e-10
# after 3000 steps at 0.1.
RECIPE = [
    "--device", "cpu", "--precision", "fp64", "--width", "4", "--minibatch", "64", "--per-worker", "8",
    "--epochs", "2000", "--warmup-epochs", "300", "--reference-lr", "0.01", "--commit-every", "3", "--log-every", "1",
]  # fmt: skip
OFTEN = ["--checkpoint-every", "5", "--keep", "30"]  # options of the runs with faults
STALL = 20  # --stall-timeout of static runs in seconds
STEPS = 16  # steps in an epoch: 1,077 images, 64 for each step
MOST = 1e-10  # largest relative difference of any value of any tensor from the run without faults
MOST_FAULTS = 12  # most faults in a run, as an elastic run starts again by itself only three times
PATIENCE = 300.0  # seconds for which the benchmark waits for anything that a run should do
DOCS = Path(__file__).parents[1] / "docs" / "reliability.md"
TMPFS = 32 * 2**20  # size of the tmpfs in bytes: several times that of all checkpoints of a run


@dataclass(frozen=True)
class Try:
    """The consequences of one fault.

    Attributes:
        kind: The kind of the fault, a key of KINDS.
        iteration: The iteration of the run at the moment of the fault.
        survived: Whether the run passed all checks afterwards.
        lost: The number of steps that are missing in the log.
        twice: The number of steps that are in the log twice.
        left: The number of processes that were left over after the run had ended.
        difference: The largest relative difference of a tensor from the run without faults.
        seconds: The longest time without a new step.
        exit_codes: The exit code of each command that ended because of the fault.
        words: Why the run did not survive.
    """

    kind: str
    iteration: int
    survived: bool
    lost: int = 0
    twice: int = 0
    left: int = 0
    difference: float = 0.0
    seconds: float = 0.0
    exit_codes: tuple[int, ...] = ()
    words: str = ""


def latest(folder: Path) -> int:
    """Return the iteration in the last line of a run's log, or 0 if there is none."""
    try:
        with (folder / "log.jsonl").open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 4096))
            found = re.findall(rb'"iteration": (\d+)', log.read())
    except OSError:
        return 0
    return int(found[-1]) if found else 0


def processes_of(folder: Path) -> dict[int, list[bytes]]:
    """Return the processes that have the folder on their command line, as a dict from process id to command line."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(folder).encode() in words:
            found[int(process.name)] = words
    return found


class Run:
    """A training run that gets faults, one after the other.

    Args:
        folder: The folder of the run.
        elastic: Whether the run is elastic, or else has two processes.
        draw: The source of random numbers.
    """

    def __init__(self, folder: Path, elastic: bool, draw: random.Random) -> None:
        self.folder, self.draw = folder, draw
        self.hosts = folder.with_name("hosts")
        folder.parent.mkdir(parents=True)
        (folder / "checkpoints").mkdir(parents=True)
        self.words = ["-np", "2", "train", "--stall-timeout", str(STALL)]
        if elastic:
            script = folder.with_name("discover.sh")
            script.write_text(f"#!/bin/sh\ncat '{self.hosts}'\n")
            script.chmod(0o755)
            self.list_slots(2)
            self.words = ["--min-np", "1", "--max-np", "4", "--host-discovery-script", str(script), "train"]
        elif os.geteuid() == 0:
            tmpfs = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS}", "tmpfs", str(folder / "checkpoints")]
            subprocess.run(tmpfs, check=True)
        self.codes, self.left, self.checked = list[int](), 0, 0
        self.longest, self.highest, self.since = 0.0, 0, 0.0
        self.start()

    def start(self) -> None:
        self.job = Job(self.folder, [*RUN, *self.words, *RECIPE, *OFTEN, "--output", str(self.folder)])

    # Methods that cause faults

    def list_slots(self, slots: int) -> None:
        self.hosts.write_text(f"localhost:{slots}\n")

    def settle(self, slots: int) -> None:
        """Change an elastic run to `slots` processes, and wait until they are on the first slots of this machine.

        A process on another slot still has to leave. If the only other process died before that, the state of the run
        would be lost.
        """
        self.list_slots(slots)
        self.go_on(lambda: self.slots() == list(range(1, slots + 1)) and self.planned() == slots)

    def slots(self) -> list[int]:
        """Return the slots of this machine that have a process. The host of slot N is the address 127.0.0.N."""
        found: list[int] = []
        for pid in self.trainers():
            try:
                variables = Path(f"/proc/{pid}/environ").read_bytes()
            except OSError:
                continue
            found += map(int, re.findall(rb"HOROVOD_HOSTNAME=127\.0\.0\.(\d+)\0", variables))
        return sorted(found)

    def planned(self) -> int:
        """Return the number of processes in the run's plan.json, or 0 if there is none."""
        try:
            return int(json.loads((self.folder / "plan.json").read_text())["processes"])
        except (OSError, ValueError):
            return 0

    def trainers(self) -> list[int]:
        """Return the process ids of the ranks. Rank 0, which holds the lock of the folder, comes first."""
        found = [pid for pid, words in processes_of(self.folder).items() if words[1:4] == [b"-m", b"app", b"train"]]
        return sorted(found, key=lambda pid: not self.is_rank_0(pid))

    def is_rank_0(self, pid: int) -> bool:
        try:
            return any(fd.readlink() == self.folder / "lock" for fd in Path(f"/proc/{pid}/fd").iterdir())
        except OSError:
            return False

    def target(self, name: str) -> int:
        """Return the process id of "run.sh", "the launcher", "rank 0" or "rank 1"."""
        if name == "run.sh":
            return self.job.process.pid
        return self.job.launcher() if name == "the launcher" else self.trainers()[int(name.split()[1])]

    def restart(self) -> None:
        """Wait for the end of the job, and give the same command again."""
        self.codes.append(self.job.end(PATIENCE).code)
        end = time.monotonic() + 60  # ranks need some time to end after their launcher was killed
        while (left := processes_of(self.folder)) and time.monotonic() < end:
            time.sleep(0.1)
        self.left += len(left)
        self.start()

    # Methods that watch the run

    def begin(self) -> int:
        """Wait for a random moment, which may be within a step or the writing of a checkpoint. Return the iteration."""
        at = latest(self.folder) + self.draw.randint(5, 40)
        self.go_on(lambda: self.highest >= at)
        time.sleep(self.draw.uniform(0, 0.5))
        self.codes, self.left = [], 0
        self.longest, self.highest, self.since = 0.0, latest(self.folder), time.monotonic()
        return self.highest

    def go_on(self, done: Callable[[], object]) -> None:
        """Watch the steps of the run until done() is true."""
        end = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < end, f"waited {PATIENCE:g} s: {self.job.output.read_text()[-3000:]}"
            assert self.job.alive(), f"the run has ended: {self.job.output.read_text()[-3000:]}"
            self.look()
            time.sleep(0.02)
        self.look()

    def look(self) -> None:
        now, found = time.monotonic(), latest(self.folder)
        if found > self.highest:
            self.longest = max(self.longest, now - self.since)
            self.highest, self.since = found, now

    def steps_until(self, end: int) -> tuple[int, int]:
        """Return how many steps are missing in the log, and how many are in it twice.

        Only the steps up to `end` that no earlier call has checked are counted.
        """
        lines = [json.loads(line) for line in (self.folder / "log.jsonl").read_text().splitlines()]
        steps = [n for line in lines if line["kind"] == "train" and self.checked < (n := line["iteration"]) <= end]
        lost, twice = end - self.checked - len(set(steps)), len(steps) - len(set(steps))
        self.checked = end
        return lost, twice

    def close(self) -> int:
        """End the run. Return the number of its processes that were left over."""
        self.job.process.terminate()
        try:
            self.job.process.wait(60)
        except subprocess.TimeoutExpired:
            self.job.process.kill()
            self.job.process.wait()
        time.sleep(0.5)
        left = processes_of(self.folder)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        if (self.folder / "checkpoints").is_mount():
            subprocess.run(["umount", "--lazy", self.folder / "checkpoints"], check=True)
        return len(left)


# The faults


def signalled(number: signal.Signals, to: str, code: int, run: Run) -> None:
    """Send a signal after which the run must end with the exit code `code`, and start the run again."""
    os.kill(run.target(to), number)
    run.restart()
    assert run.codes == [code], f"exit codes {run.codes}: {run.job.output.read_text()[-3000:]}"


def damaged(run: Run) -> None:
    """Kill both processes, cut the newest checkpoint in half, and start the run again."""
    for pid in run.trainers():
        os.kill(pid, signal.SIGKILL)
    run.codes.append(run.job.end(PATIENCE).code)
    newest = sorted((run.folder / "checkpoints").glob("iteration-*.pt"))[-1]
    os.truncate(newest, newest.stat().st_size // 2)  # this damages last.pt too, which is a link to the same file
    run.start()
    run.job.wait_for(lambda: "the newest good one" in run.job.output.read_text(), PATIENCE)


def full_disk(run: Run) -> None:
    """Fill the disk until the writing of a checkpoint has failed, then free it."""
    filler = run.folder / "checkpoints" / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    run.go_on(lambda: "could not be written" in run.job.output.read_text())
    filler.unlink()


def elastic_killed(rank: int, run: Run) -> None:
    os.kill(run.trainers()[rank], signal.SIGKILL)


def resized(slots: int, run: Run) -> None:
    run.settle(slots)


def killed_while_meeting(run: Run) -> None:
    """Kill two processes. The second is killed while the processes that are left connect again."""
    for pid in run.draw.sample(run.trainers(), 2):
        os.kill(pid, signal.SIGKILL)
        time.sleep(run.draw.uniform(0, 1))


def killed_while_joining(run: Run) -> None:
    """Let a process join the run, and kill it before it takes part."""
    before = set(run.trainers())
    run.list_slots(2)
    run.go_on(lambda: set(run.trainers()) - before)
    time.sleep(run.draw.uniform(0, 3))
    for pid in set(run.trainers()) - before:
        os.kill(pid, signal.SIGKILL)


def all_killed(run: Run) -> None:
    """Kill all processes at once. The run must start again by itself."""
    for pid in run.trainers():
        os.kill(pid, signal.SIGKILL)


class Kind(NamedTuple):
    """A kind of fault.

    Attributes:
        slots: The number of processes of an elastic run before the fault, or 0 for a static run of two processes.
        do: The function that causes the fault.
    """

    slots: int
    do: Callable[[Run], None]


TERM, KILL, INT, STOP = signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGSTOP
HUP, USR1 = signal.SIGHUP, signal.SIGUSR1
KINDS = {
    "SIGTERM to run.sh": Kind(0, partial(signalled, TERM, "run.sh", 75)),
    "SIGINT to run.sh": Kind(0, partial(signalled, INT, "run.sh", 75)),
    "SIGHUP to run.sh": Kind(0, partial(signalled, HUP, "run.sh", 75)),
    "SIGUSR1 to run.sh": Kind(0, partial(signalled, USR1, "run.sh", 75)),
    "SIGTERM to the launcher": Kind(0, partial(signalled, TERM, "the launcher", 75)),
    "SIGTERM to rank 0": Kind(0, partial(signalled, TERM, "rank 0", 75)),
    "SIGTERM to rank 1": Kind(0, partial(signalled, TERM, "rank 1", 75)),
    "SIGKILL of run.sh": Kind(0, partial(signalled, KILL, "run.sh", -9)),
    "SIGKILL of the launcher": Kind(0, partial(signalled, KILL, "the launcher", 1)),
    "SIGKILL of rank 0": Kind(0, partial(signalled, KILL, "rank 0", 1)),
    "SIGKILL of rank 1": Kind(0, partial(signalled, KILL, "rank 1", 1)),
    "SIGSTOP of rank 1": Kind(0, partial(signalled, STOP, "rank 1", 1)),
    "newest checkpoint damaged": Kind(0, damaged),
    "disk full for a while": Kind(0, full_disk),
    "elastic: SIGKILL of rank 0 of 2": Kind(2, partial(elastic_killed, 0)),
    "elastic: SIGKILL of rank 1 of 2": Kind(2, partial(elastic_killed, 1)),
    "elastic: SIGKILL of rank 0 of 3": Kind(3, partial(elastic_killed, 0)),
    "elastic: SIGKILL of rank 1 of 3": Kind(3, partial(elastic_killed, 1)),
    "elastic: SIGKILL of rank 0 of 4": Kind(4, partial(elastic_killed, 0)),
    "elastic: SIGKILL of rank 1 of 4": Kind(4, partial(elastic_killed, 1)),
    "elastic: SIGKILL of 2 of 3 while they meet": Kind(3, killed_while_meeting),
    "elastic: SIGKILL of 2 of 4 while they meet": Kind(4, killed_while_meeting),
    "elastic: SIGKILL of a process that joins": Kind(1, killed_while_joining),
    "elastic: SIGKILL of all": Kind(2, all_killed),
    "elastic: a process joins": Kind(1, partial(resized, 2)),
    "elastic: a process leaves": Kind(2, partial(resized, 1)),
}


class Soak:
    """The run without faults, the runs with faults, and the results so far."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.alone = folder / "alone" / "run"
        self.tries: list[Try] = []
        self.result: dict[str, Any] = {"seed": options.seed}
        self.end = time.monotonic() + 60 * options.minutes
        self.lock, self.stopped = threading.Lock(), threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self.stopped.set())

    def is_over(self) -> bool:
        return self.stopped.is_set() or time.monotonic() > self.end

    def run_alone(self) -> None:
        """Train with one process and without faults. The other runs must have the same checkpoints."""
        job = Job(
            self.alone, [*RUN, "--launcher", "none", "train", *RECIPE, "--keep", "1000", "--output", str(self.alone)]
        )
        job.wait_for(lambda: self.stopped.is_set() or latest(self.alone) > self.options.compared * STEPS, 3600)
        job.process.terminate()
        job.process.wait(60)

    def make_runs(self, groups: list[list[str]], seed: int) -> None:
        """Make one run after another until the time is over. The runs get the groups of kinds of faults in turn."""
        draw, groups = random.Random(seed), [group for group in groups if group]
        waiting: list[list[str]] = [[] for _ in groups]
        for number in itertools.count():
            if not groups or self.is_over():
                return
            folder, place = self.folder / f"{seed}-{number}" / "run", number % len(groups)
            if self.make_run(folder, groups[place], waiting[place], draw):
                shutil.rmtree(folder.parent)

    def make_run(self, folder: Path, kinds: list[str], waiting: list[str], draw: random.Random) -> bool:
        """Make one run with faults, up to the first fault that it does not survive. Return whether it survived all.

        Args:
            folder: The folder of the run.
            kinds: The kinds of faults.
            waiting: The kinds that are still to be used before any kind is used again. This list is changed.
            draw: The source of random numbers.
        """
        run = Run(folder, KINDS[kinds[0]].slots > 0, draw)
        survived, faults = True, 0
        while survived and faults < MOST_FAULTS and not self.is_over():
            waiting += [] if waiting else draw.sample(kinds, len(kinds))
            found = self.make_fault(run, waiting[-1])
            if found is None or self.stopped.is_set():
                break
            waiting.pop()
            survived, faults = found.survived, faults + 1
            self.keep(found)
        if left := run.close():
            self.keep(Try("the end of a run", run.highest, False, left=left))
        return survived and not left

    def keep(self, found: Try) -> None:
        with self.lock:
            self.tries.append(found)
            print(json.dumps(asdict(found)), flush=True)
            if self.options.json:
                self.result["tries"] = [asdict(each) for each in self.tries]
                self.options.json.write_text(json.dumps(self.result, indent=2) + "\n")

    def make_fault(self, run: Run, kind: str) -> Try | None:
        """Cause a fault in a run, wait for the end of the next epoch, and compare the run with the one without faults.

        Return the consequences of the fault, or None if the run without faults ended before the fault.
        """
        at = latest(run.folder)
        try:
            if KINDS[kind].slots:
                run.settle(KINDS[kind].slots)
            at = run.begin()
            if at > self.options.compared * STEPS * 6 / 7:
                return None
            KINDS[kind].do(run)
            run.go_on(lambda: run.highest > at)
            end = STEPS * (run.highest // STEPS + 1)
            compared = run.folder / "checkpoints" / f"iteration-{end:09}.pt"
            run.go_on(lambda: compared.exists() and run.highest > end)
            found = difference(compared, self.alone / "checkpoints" / compared.name)
            lost, twice = run.steps_until(end)
            survived = found <= MOST and not lost and not twice and not run.left
            return Try(kind, at, survived, lost, twice, run.left, found, run.longest, tuple(run.codes))
        except (AssertionError, subprocess.TimeoutExpired, OSError, ValueError, IndexError) as error:
            return Try(kind, at, False, left=run.left, exit_codes=tuple(run.codes), words=str(error)[-3000:])


def difference(one: Path, other: Path) -> float:
    """Return the largest relative difference between the tensors of two checkpoints, or 1 if their positions differ."""
    a, b = (torch.load(path, weights_only=True) for path in (one, other))
    pairs = [(a["model"][name], b["model"][name]) for name in b["model"]]
    pairs += list(zip(a["momentum"], b["momentum"], strict=True))
    largest = max(float((x - y).abs().max() / y.abs().max().clamp(min=1e-30)) for x, y in pairs)
    return largest if a["position"] == b["position"] else 1.0


def time_of_saving(folder: Path) -> dict[str, float]:
    """Measure how long a checkpoint of ResNet-50 takes on this machine's CPU.

    Returns:
        bytes: The size of the file. copy: The seconds for the copy in memory. wait: The seconds for which a step waits.
        writing: The seconds until the file is complete.
    """
    from app.data.sources import open_source
    from app.recipe.config import Config
    from app.recipe.plan import make_plan
    from app.runs.run import Run
    from app.training.checkpoint import snapshot
    from app.training.checkpoint_files import Writer
    from app.training.run import make_state
    from app.world import world

    here = world.start(device="cpu")
    config = Config(recipe="paper-256", data="synthetic", model="resnet50", image_size=224)
    source = open_source(config.data, image_size=224)
    run = Run(config, make_plan(config, len(source.train), len(source.validation), 0), source, folder)
    state, writer, rows = make_state(run, here), Writer(folder, 2), []
    for number in range(6):
        times = [time.monotonic()]
        content = snapshot(state, run)
        times.append(time.monotonic())
        del content
        begin = time.monotonic()
        writer.save(snapshot(state, run), number)
        times += [time.monotonic(), 0.0]
        assert writer.wait()
        rows.append((times[1] - times[0], times[2] - begin, time.monotonic() - begin))
    world.stop()
    copy, wait, writing = (statistics.median(column) for column in zip(*rows[1:], strict=True))
    size = next((folder / "checkpoints").glob("iteration-*.pt")).stat().st_size
    return {"bytes": size, "copy": copy, "wait": wait, "writing": writing}


def table(tries: list[Try]) -> str:
    """Return a Markdown table with a line for each kind of fault, and a line for all faults."""
    head = ["fault", "tried", "survived", "images lost", "seen twice", "processes left over"]
    lines = [f"| {' | '.join(head)} | seconds lost: quartiles, most |", "|---|---|---|---|---|---|---|"]
    kinds = list(dict.fromkeys(each.kind for each in tries))
    groups = {kind: [each for each in tries if each.kind == kind] for kind in sorted(kinds)} | {"all": tries}
    for kind, rows in groups.items():
        seconds = [each.seconds for each in rows]
        quartiles = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else seconds * 3
        counts = [
            len(rows),
            sum(r.survived for r in rows),
            64 * sum(r.lost for r in rows),
            64 * sum(r.twice for r in rows),
            sum(r.left for r in rows),
        ]
        span = ", ".join(f"{each:.1f}" for each in [*quartiles, max(seconds)])
        lines.append(f"| {kind} | {' | '.join(map(str, counts))} | {span} |")
    return "\n".join(lines)


def write_table(file: Path) -> None:
    """Write the table of a JSON file into docs/reliability.md, between the two marks."""
    found = json.loads(file.read_text())
    text = table([Try(**each) for each in found["tries"]])
    largest = max(each["difference"] for each in found["tries"])
    text += f"\n\nLargest relative difference of any tensor from the undisturbed run: {largest:.0e}."
    before, first, rest = DOCS.read_text().partition("<!-- table -->\n")
    _, second, after = rest.partition("<!-- end of the table -->")
    assert first and second, f"{DOCS} has no marks for the table"
    DOCS.write_text(f"{before}{first}{text}\n{second}{after}")


def soak(options: argparse.Namespace, folder: Path) -> None:
    """Make runs with faults until the time is over, and print the table."""
    chosen = [kind for kind in KINDS if not options.kinds or any(word in kind for word in options.kinds)]
    if os.geteuid() != 0:
        chosen = [kind for kind in chosen if not kind.startswith("disk full")]
    groups = [[kind for kind in chosen if bool(KINDS[kind].slots) == elastic] for elastic in (False, True)]
    made = Soak(options, folder)
    if options.saving:
        made.result["saving"] = time_of_saving(folder / "saving")
    made.run_alone()
    made.end = time.monotonic() + 60 * options.minutes
    shares = [groups] if options.at_once == 1 else [[group] for group in groups]
    with ThreadPoolExecutor() as threads:
        for done in [threads.submit(made.make_runs, share, options.seed + n) for n, share in enumerate(shares)]:
            done.result()
    print(table(made.tries))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="minutes after which no more faults are caused")
    parser.add_argument("--json", type=Path, help="file for the consequences of each fault")
    parser.add_argument(
        "--at-once", type=int, choices=(1, 2), default=1, help="runs at the same time, 1 or 2 (default: 1)"
    )
    parser.add_argument(
        "--compared", type=int, default=700, metavar="EPOCHS", help="epochs of the run without faults (default: 700)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the order and the moments of the faults")
    parser.add_argument("--saving", action="store_true", help="measure the writing of a ResNet-50 checkpoint too")
    parser.add_argument(
        "--table", type=Path, metavar="FILE", help="only write the table of docs/reliability.md from FILE"
    )
    parser.add_argument("kinds", nargs="*", metavar="KIND", help="part of the names of faults to cause (default: all)")
    options = parser.parse_args()
    if options.table:
        write_table(options.table)
        return
    with tempfile.TemporaryDirectory(prefix="reliability-") as name:
        soak(options, Path(name))


if __name__ == "__main__":
    main()
