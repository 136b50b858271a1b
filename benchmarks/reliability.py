"""A soak: random faults at random moments, as long as asked, and what each of them costs a run.

`python -m benchmarks.reliability --minutes N --json FILE [KIND ...]` starts small runs one after the other: digits,
fp64, 1 to 3 processes on this machine. Each gets one fault at a random moment and goes on, by the same command where it
ended, past the next epoch. That epoch's checkpoint is compared with the one of a run left alone, its log is searched
for steps that are missing or doubled, and the machine for processes that are left over. Seconds lost: the longest time
without a step that had not been made before. All of it is start-up of processes, unless steps are made again.

`--table FILE` writes the table of docs/reliability.md from such a file. The full disk needs root (a tmpfs) and is left
out otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tests.support.jobs import Job, iteration, wait_for
from tests.support.programs import RUN

RECIPE = [
    "train", "--device", "cpu", "--precision", "fp64", "--width", "4", "--minibatch", "64", "--per-worker", "8",
    "--epochs", "400", "--checkpoint-every", "5", "--commit-every", "3", "--keep", "1000", "--log-every", "1",
]  # fmt: skip
STEPS = 22  # an epoch: 1,437 images, 64 a step
COMPARED = 30  # epochs that the undisturbed run makes
MOST = 1e-10  # relative difference of any value of any tensor
DOCS = Path(__file__).parents[1] / "docs" / "reliability.md"
TMPFS = 4 * 2**20  # bytes


@dataclass(frozen=True)
class Try:
    """survived: it went on, in an equal state; lost: steps missing in the log; twice: steps that are in it twice; left:
    processes left over at its end; words: why it did not survive."""

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


class Trial:
    """One run with one fault."""

    def __init__(self, folder: Path, slots: int, at: int, draw: random.Random) -> None:
        self.folder, self.at, self.draw, self.codes = folder, at, draw, list[int]()
        self.hosts, self.script = folder.with_name("hosts"), folder.with_name("discover.sh")
        folder.parent.mkdir(parents=True)
        self.list_slots(slots)
        self.script.write_text(f"#!/bin/sh\ncat '{self.hosts}'\n")
        self.script.chmod(0o755)
        self.longest, self.highest, self.since = 0.0, 0, 0.0
        self.words = ["-np", "2"]

    def list_slots(self, slots: int) -> None:
        self.hosts.write_text(f"localhost:{slots}\n")

    def be_elastic(self) -> None:
        self.words = ["--min-np", "1", "--max-np", "3", "--host-discovery-script", str(self.script)]

    def start(self) -> Job:
        self.job = Job(self.folder, [*RUN, *self.words, *RECIPE, "--output", str(self.folder)])
        return self.job

    def reach_fault(self) -> None:
        self.start()
        self.job.wait_for(lambda: iteration(self.folder) >= self.at, 300)
        time.sleep(self.draw.uniform(0, 0.5))  # in the middle of a step, a commit or a checkpoint too
        self.highest, self.since = iteration(self.folder), time.monotonic()

    def go_on(self, done: Callable[[], object]) -> None:
        """Watches the steps until done()."""
        end = time.monotonic() + 300
        while not done():
            assert time.monotonic() < end and self.job.alive(), self.job.output.read_text()
            self.look()
            time.sleep(0.01)
        self.look()

    def look(self) -> None:
        now, found = time.monotonic(), iteration(self.folder)
        if found > self.highest:
            self.longest = max(self.longest, now - self.since)
            self.highest, self.since = found, now

    def restart(self) -> None:
        """The same command again, once the job has ended."""
        self.codes.append(self.job.end(120).code)
        self.start()


def asked(to: str, trial: Trial) -> None:
    trial.reach_fault()
    trial.job.signal(to, signal.SIGTERM)
    trial.restart()
    assert trial.codes == [75], trial.codes


def killed(to: str, trial: Trial) -> None:
    trial.reach_fault()
    trial.job.signal(to, signal.SIGKILL)
    trial.restart()
    assert trial.codes == [1], trial.codes


def elastic_killed(to: str, trial: Trial) -> None:
    trial.be_elastic()
    trial.reach_fault()
    trial.job.signal(to, signal.SIGKILL)


def resized(slots: int, trial: Trial) -> None:
    trial.be_elastic()
    trial.reach_fault()
    trial.list_slots(slots)
    plan = trial.folder / "plan.json"
    trial.go_on(lambda: json.loads(plan.read_text())["processes"] == slots)


def killed_while_meeting(trial: Trial) -> None:
    """Of three processes one is killed, and another while the rest meet again."""
    trial.be_elastic()
    trial.reach_fault()
    ranks = trial.job.ranks()
    for rank in trial.draw.sample(sorted(ranks), 2):
        os.kill(ranks[rank], signal.SIGKILL)
        time.sleep(trial.draw.uniform(0, 1))


def killed_while_joining(trial: Trial) -> None:
    """A process that joins is killed before it takes part."""
    trial.be_elastic()
    trial.reach_fault()
    before = set(members(trial.folder))
    trial.list_slots(2)
    trial.go_on(lambda: set(members(trial.folder)) - before)
    time.sleep(trial.draw.uniform(0, 3))
    for pid in set(members(trial.folder)) - before:
        os.kill(pid, signal.SIGKILL)


def all_killed(trial: Trial) -> None:
    """Every process of an elastic run is killed at once: the run starts again by itself."""
    trial.be_elastic()
    trial.reach_fault()
    for pid in trial.job.ranks().values():
        os.kill(pid, signal.SIGKILL)


def members(folder: Path) -> list[int]:
    """The processes of any kind with the folder on their command line."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() in (process / "cmdline").read_bytes().split(b"\0"):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def damaged(trial: Trial) -> None:
    """Both processes are killed, and the newest checkpoint is cut in the middle."""
    trial.reach_fault()
    for pid in trial.job.ranks().values():
        os.kill(pid, signal.SIGKILL)
    trial.codes.append(trial.job.end(120).code)
    newest = sorted((trial.folder / "checkpoints").glob("iteration-*.pt"))[-1]
    os.truncate(newest, newest.stat().st_size // 2)  # last.pt is another name of it
    trial.start()
    trial.job.wait_for(lambda: "the newest good one" in trial.job.output.read_text(), 120)


def full_disk(trial: Trial) -> None:
    """Until a checkpoint could not be written; then there is room again."""
    checkpoints = trial.folder / "checkpoints"
    checkpoints.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={TMPFS}", "tmpfs", checkpoints], check=True)
    trial.reach_fault()
    filler = checkpoints / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    trial.go_on(lambda: "could not be written" in trial.job.output.read_text())
    filler.unlink()


KINDS: dict[str, tuple[int, Callable[[Trial], None]]] = {  # slots at the start, what is done
    "SIGTERM to run.sh": (2, partial(asked, "run.sh")),
    "SIGTERM to the launcher": (2, partial(asked, "launcher")),
    "SIGTERM to rank 0": (2, partial(asked, "rank 0")),
    "SIGTERM to rank 1": (2, partial(asked, "rank 1")),
    "SIGKILL of rank 0, resumed": (2, partial(killed, "rank 0")),
    "SIGKILL of rank 1, resumed": (2, partial(killed, "rank 1")),
    "elastic: SIGKILL of rank 0": (2, partial(elastic_killed, "rank 0")),
    "elastic: SIGKILL of rank 1": (2, partial(elastic_killed, "rank 1")),
    "elastic: SIGKILL of rank 0 of 3": (3, partial(elastic_killed, "rank 0")),
    "elastic: SIGKILL of rank 1 of 3": (3, partial(elastic_killed, "rank 1")),
    "elastic: SIGKILL while the others meet": (3, killed_while_meeting),
    "elastic: SIGKILL of a process that joins": (1, killed_while_joining),
    "elastic: SIGKILL of all": (2, all_killed),
    "elastic: a process joins": (1, partial(resized, 2)),
    "elastic: a process leaves": (2, partial(resized, 1)),
    "killed, newest checkpoint damaged": (2, damaged),
    "disk full for a while": (2, full_disk),
}


def attempt(kind: str, at: int, folder: Path, alone: Path, draw: random.Random) -> Try:
    """One try, to the first checkpoint of an epoch's end after the fault. Ends all that it started."""
    slots, fault = KINDS[kind]
    trial = Trial(folder, slots, at, draw)
    try:
        fault(trial)
        trial.go_on(lambda: trial.highest > at)
        end = STEPS * (trial.highest // STEPS + 1)
        compared = folder / "checkpoints" / f"iteration-{end:09}.pt"
        trial.go_on(lambda: compared.exists() and iteration(folder) > end)
        found = difference(compared, alone / "checkpoints" / compared.name)
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        steps = [line["iteration"] for line in lines if line["kind"] == "train" and line["iteration"] <= end]
        lost, twice = end - len(set(steps)), len(steps) - len(set(steps))
        left = close(trial)
        survived = found <= MOST and not lost and not twice and not left
        return Try(kind, at, survived, lost, twice, left, found, trial.longest, tuple(trial.codes))
    except (AssertionError, subprocess.TimeoutExpired, OSError, ValueError) as error:
        return Try(kind, at, False, left=close(trial), exit_codes=tuple(trial.codes), words=str(error)[-2000:])


def close(trial: Trial) -> int:
    """Ends the run of a try; how many of its processes were left over."""
    trial.job.process.terminate()
    try:
        trial.job.process.wait(60)
    except subprocess.TimeoutExpired:
        trial.job.process.kill()
        trial.job.process.wait()
    time.sleep(0.5)
    left = members(trial.folder)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    if (trial.folder / "checkpoints").is_mount():
        subprocess.run(["umount", trial.folder / "checkpoints"], check=True)
    return len(left)


def difference(one: Path, other: Path) -> float:
    """The largest relative difference of two checkpoints' tensors; 1 where the positions differ."""
    a, b = (torch.load(path, weights_only=True) for path in (one, other))
    pairs = [(a["model"][name], b["model"][name]) for name in b["model"]]
    pairs += list(zip(a["momentum"], b["momentum"], strict=True))
    largest = max(float((x - y).abs().max() / y.abs().max().clamp(min=1e-30)) for x, y in pairs)
    return largest if a["position"] == b["position"] else 1.0


def run_alone(folder: Path) -> None:
    """What the others must equal: one process, undisturbed."""
    job = Job(folder, [*RUN, "--launcher", "none", *RECIPE, "--output", str(folder)])
    wait_for(lambda: iteration(folder) > COMPARED * STEPS, 600)
    job.process.terminate()
    job.process.wait(60)


def time_of_saving(folder: Path) -> dict[str, float]:
    """Seconds for ResNet-50's state on this machine's CPU: its copy in memory, the step's wait, the whole writing."""
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
    source = open_source(
        config.data, image_size=224, resize=256, augmentation="none", seed=0,
    )  # fmt: skip
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
    """Markdown: a line for each kind of fault and one for all."""
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
    """Puts the table of a soak's file into docs/reliability.md, between its two marks."""
    found = json.loads(file.read_text())
    text = table([Try(**each) for each in found["tries"]])
    largest = max(each["difference"] for each in found["tries"])
    text += f"\n\nLargest relative difference of any tensor from the undisturbed run: {largest:.0e}."
    before, first, rest = DOCS.read_text().partition("<!-- table -->\n")
    _, second, after = rest.partition("<!-- end of the table -->")
    assert first and second, f"{DOCS} has no marks for the table"
    DOCS.write_text(f"{before}{first}{text}\n{second}{after}")


def soak(options: argparse.Namespace, folder: Path) -> None:
    """Tries every kind once in a random order, then again, until the time is over."""
    draw, tries = random.Random(options.seed), list[Try]()
    chosen = [kind for kind in KINDS if not options.kinds or any(word in kind for word in options.kinds)]
    if os.geteuid() != 0:
        chosen = [kind for kind in chosen if not kind.startswith("disk full")]
    end = time.monotonic() + 60 * options.minutes
    result: dict[str, Any] = {"seed": options.seed}
    if options.saving:
        result["saving"] = time_of_saving(folder / "saving")
    run_alone(folder / "alone" / "run")
    waiting: list[str] = []
    while time.monotonic() < end:
        waiting = waiting or draw.sample(chosen, len(chosen))
        kind = waiting.pop()
        place = folder / re.sub(r"\W+", "-", f"{len(tries)} {kind}") / "run"
        tries.append(attempt(kind, draw.randint(STEPS // 2, 3 * STEPS), place, folder / "alone" / "run", draw))
        print(json.dumps(asdict(tries[-1])), flush=True)
        if tries[-1].survived:
            shutil.rmtree(place.parent)
        if options.json:
            result["tries"] = [asdict(each) for each in tries]
            options.json.write_text(json.dumps(result, indent=2) + "\n")
    print(table(tries))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="minutes after which no other try begins")
    parser.add_argument("--json", type=Path, help="file for the tries, one by one")
    parser.add_argument("--seed", type=int, default=0, help="seed of the order and the moments of the faults")
    parser.add_argument("--saving", action="store_true", help="measure the writing of a ResNet-50 checkpoint too")
    parser.add_argument(
        "--table", type=Path, metavar="FILE", help="only write the table of docs/reliability.md from FILE"
    )
    parser.add_argument("kinds", nargs="*", metavar="KIND", help="words of the kinds to try (default: all kinds)")
    options = parser.parse_args()
    if options.table:
        write_table(options.table)
        return
    with tempfile.TemporaryDirectory(prefix="reliability-") as name:
        soak(options, Path(name))


if __name__ == "__main__":
    main()
