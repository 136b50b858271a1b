"""Cause random faults in small training runs, and measure what each fault costs.

`python -m benchmarks.reliability --minutes N --json FILE [KIND ...]` trains on the digits in fp64 with 1 to 4 processes
on this machine. A run gets one fault after another, at random moments. The kinds of faults are in random order, and
each kind is used once before any kind is used again. If a fault ends the run, the program gives the same command again.
After each fault it checks these things:

- The checkpoint at the end of the next epoch must be equal to that of a run without faults.
- The log must have each step and each evaluation of the run without faults once, with the same losses. So every image
  was used once.
- If the fault has ended the command, its last line must name the cause within a time limit, and none of its processes
  may be left over.
- The run must make new steps within a time limit.

At the end of a run, its TensorBoard curves must have each step and each evaluation of the log once. "Seconds lost" is
the longest time after the fault in which the run made no new step. Nearly all of this time is needed to start
processes.

A run is either elastic or static, that is, with a fixed number of processes. `--at-once 2` makes one run of each at the
same time. `--table FILE` writes the table of docs/reliability.md from the JSON file. The fault of a full disk needs
root, to mount a tmpfs. Without root it is left out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import random
import re
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.faults import KINDS, RECIPE, Kind, Run
from tests.support.jobs import Job, iteration
from tests.support.programs import RUN

LEAST_LEFT = 1600  # steps of the run without faults after a fault; in a slow fault the other processes go on training
STEPS = 16  # steps in an epoch: 1,077 images, 64 for each step
MOST = 1e-10  # largest relative difference of any value of any tensor from the run without faults
MOST_LOSS = 1e-6  # the same for a loss in the log
STARTS_AGAIN = "the run starts again from its checkpoint"
MOST_FAULTS = 12  # most faults in a run, as an elastic run starts again by itself only three times
DOCS = Path(__file__).parents[1] / "docs" / "reliability.md"


@dataclass(frozen=True)
class Try:
    """The consequences of one fault.

    Attributes:
        kind: The kind of the fault, a key of KINDS.
        iteration: The iteration of the run at the moment of the fault.
        survived: Whether the run passed all checks afterwards.
        lost: The number of steps and evaluations that are missing in the log.
        twice: The number of steps and evaluations that are in the log more than once.
        wrong: The number of steps and evaluations in the log that have another loss than in the run without faults.
        left: The number of processes that were left over after the command had ended.
        difference: The largest relative difference of a tensor from the run without faults.
        seconds: The longest time without a new step.
        ended: The seconds from the fault to the end of the command that the fault has ended, or 0.
        words: Why the run did not survive.
    """

    kind: str
    iteration: int
    survived: bool
    lost: int = 0
    twice: int = 0
    wrong: int = 0
    left: int = 0
    difference: float = 0.0
    seconds: float = 0.0
    ended: float = 0.0
    words: str = ""


class Soak:
    """The run without faults, the runs with faults, and the results so far."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.alone = folder / "alone" / "run"
        self.tries: list[Try] = []
        self.result: dict[str, Any] = {"seed": options.seed}
        self.end = math.inf
        self.lock, self.stopped = threading.Lock(), threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self.stopped.set())
        for number in (signal.SIGHUP, signal.SIGUSR1):  # under nohup the runs would inherit that they are ignored
            signal.signal(number, lambda *_: None)

    def is_over(self) -> bool:
        return self.stopped.is_set() or time.monotonic() > self.end

    def run_alone(self) -> None:
        """Train with one process and without faults. The other runs must have the same checkpoints."""
        keep = ["--keep", str(2 * self.options.compared)]
        words = [*RUN, "--launcher", "none", "train", *RECIPE, *keep, "--output", str(self.alone)]
        job = Job(self.alone, words)
        job.wait_for(lambda: self.stopped.is_set() or iteration(self.alone) > self.options.compared * STEPS, 3600)
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
        try:
            while survived and faults < min(MOST_FAULTS, 2 * len(kinds)) and not self.is_over():
                waiting += [] if waiting else draw.sample(kinds, len(kinds))
                found = self.make_fault(run, waiting[-1])
                if found is None or self.stopped.is_set():
                    break
                waiting.pop()
                survived, faults = found.survived, faults + 1
                self.keep(found)
        finally:
            left = run.close()
        words = curve_faults(folder) if survived and faults else ""
        if left or words:
            self.keep(Try("the end of a run", run.highest, False, left=left, words=words))
        return survived and not left and not words

    def keep(self, found: Try) -> None:
        with self.lock:
            self.tries.append(found)
            print(json.dumps(asdict(found)), flush=True)
            if self.options.json:
                self.result["tries"] = [asdict(each) for each in self.tries]
                self.options.json.write_text(json.dumps(self.result, indent=2) + "\n")

    def make_fault(self, run: Run, name: str) -> Try | None:
        """Cause a fault in a run, wait for the end of the next epoch, and compare the run with the one without faults.

        Return the consequences of the fault, or None if the run without faults ended before the fault.
        """
        at, kind = iteration(run.folder), KINDS[name]
        try:
            if kind.slots:
                run.settle(kind.slots)
            at = run.begin()
            starts = run.output().count(STARTS_AGAIN)
            if at > self.options.compared * STEPS - LEAST_LEFT:
                return None
            kind.do(run)
            ended = run.ends[0].seconds if run.ends else 0.0
            run.go_on(lambda: run.highest > at)
            end = STEPS * (run.highest // STEPS + 1)
            compared = run.folder / "checkpoints" / f"iteration-{end:09}.pt"
            # A checkpoint that is due within the epoch, too, is written twice. The next one waits for both.
            run.go_on(lambda: compared.exists() and run.highest > end + 5)
            found = difference(compared, self.alone / "checkpoints" / compared.name)
            lost, twice, wrong = compare_logs(run.folder, self.alone, end)
            words = words_of(run, kind, ended, run.output().count(STARTS_AGAIN) - starts)
            survived = found <= MOST and not (lost or twice or wrong or run.left or words)
            return Try(name, at, survived, lost, twice, wrong, run.left, found, run.longest, ended, words)
        except Exception as error:  # reading a damaged checkpoint or log raises any type
            words = f"{type(error).__name__}: {error}"[-3000:]
            return Try(name, at, False, left=run.left, seconds=run.longest, words=words)


def words_of(run: Run, kind: Kind, ended: float, again: int) -> str:
    """Return what is wrong with the messages and the times after a fault, or "" if all is right.

    Args:
        run: The run.
        kind: The kind of the fault.
        ended: The seconds until the fault has ended the command, or 0.
        again: How often an elastic run has started again from its checkpoint.
    """
    if kind.slots and again != kind.again:
        return f"the run has started again from its checkpoint {again} times, not {kind.again} times"
    last = run.ends[0].last if run.ends and kind.says else ""
    if run.ends and kind.says and not re.search(kind.says, last):
        return f"the last line does not match {kind.says!r}: {last}"
    if ended > kind.ends:
        return f"the command ended after {ended:.0f} s: {last}"
    if run.longest > kind.most:
        return f"there was no new step for {run.longest:.0f} s: {run.output()[-3000:]}"
    return ""


def read_log(folder: Path, end: int) -> list[dict[str, Any]]:
    """Return the complete lines of a run's log up to the iteration `end`."""
    lines = (folder / "log.jsonl").read_text().rpartition("\n")[0].splitlines()
    return [line for line in map(json.loads, lines) if line["iteration"] <= end]


def compare_logs(folder: Path, alone: Path, end: int) -> tuple[int, int, int]:
    """Compare the logs of two runs up to the iteration `end`.

    Returns:
        How many lines of `alone` are missing in the log of `folder`, how many are in it more than once, and how many
        have another loss.
    """
    lines = [
        (line["kind"], line["iteration"], line["epoch"], line["seen"], line["loss"]) for line in read_log(folder, end)
    ]
    expected = {(x["kind"], x["iteration"], x["epoch"], x["seen"]): x["loss"] for x in read_log(alone, end)}
    counts = Counter(line[:4] for line in lines)
    wrong = sum(
        not math.isclose(loss, expected.get(tuple(place), math.nan), rel_tol=MOST_LOSS) for *place, loss in lines
    )
    return len(expected.keys() - counts.keys()), counts.total() - len(counts), wrong


def curve_faults(folder: Path) -> str:
    """Return what is wrong with the TensorBoard curves of a run that has ended, or "" if they have the log's steps."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    lines = read_log(folder, sys.maxsize)
    for name, kind in (("train", "train"), ("validation", "eval")):
        board = EventAccumulator(str(folder / "tensorboard" / name), size_guidance={"scalars": 0}).Reload()
        has_curve = "steps/loss" in board.Tags()["scalars"]
        steps = Counter(event.step for event in board.Scalars("steps/loss")) if has_curve else Counter()
        logged = Counter(line["iteration"] for line in lines if line["kind"] == kind)
        if steps != logged:
            return f"TensorBoard, {name}: missing steps {logged - steps}, too many steps {steps - logged}"
    return ""


def difference(one: Path, other: Path) -> float:
    """Return the largest relative difference between the tensors of two checkpoints.

    It is infinite if a value is not finite, or if the positions or the errors of the two differ.
    """
    a, b = (torch.load(path, weights_only=True) for path in (one, other))
    pairs = [(a["model"][name], b["model"][name]) for name in b["model"]]
    pairs += list(zip(a["momentum"], b["momentum"], strict=True))
    found = [float((x - y).abs().max() / y.abs().max().clamp(min=1e-30)) for x, y in pairs]
    same = a["position"] == b["position"] and a["errors"] == b["errors"]
    return max(found) if same and all(map(math.isfinite, found)) else math.inf


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
    head = ["fault", "tried", "survived", "log lines missing", "twice", "with another loss", "processes left over"]
    lines = [f"| {' | '.join(head)} | seconds lost: quartiles, most |", "|---" * (len(head) + 1) + "|"]
    kinds = list(dict.fromkeys(each.kind for each in tries))
    groups = {kind: [each for each in tries if each.kind == kind] for kind in sorted(kinds)} | {"all": tries}
    for kind, rows in groups.items():
        seconds = [each.seconds for each in rows]
        quartiles = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else seconds * 3
        counts = [
            len(rows),
            sum(r.survived for r in rows),
            sum(r.lost for r in rows),
            sum(r.twice for r in rows),
            sum(r.wrong for r in rows),
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
    text += f"\n\nLargest relative difference of any tensor from the run without faults: {largest:.0e}."
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
