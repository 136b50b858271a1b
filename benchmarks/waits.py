"""Measure how long the steps of example-small-step wait for Horovod: python -m benchmarks.waits FILE [STEPS].

FILE is Horovod's pytorch_imagenet_resnet50.py. This program and that example train in turn, and Horovod writes a
timeline of each. The wall-clock time of a step of rank 0 is divided into three parts:

- computing: no tensor waits for its allreduce
- negotiating: a tensor waits until all ranks have it, and until Horovod's next cycle
- summing: gloo sums a tensor
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.groups import Group, Work
from benchmarks.rows import example, ours

PARTS = ("computing", "negotiating", "summing")
WARMUP = 20  # steps before those that are measured


def parts_of(events: list[dict[str, Any]], steps: int) -> dict[str, float]:
    """Return the milliseconds of each part of a step, averaged over the last `steps` steps.

    A step ends when the sum of the gradient that was summed most often ends.

    Args:
        events: The events of Horovod's timeline of rank 0. Their times are in microseconds.
    """
    open_events: Counter[int] = Counter()  # from tensor to the number of its events that have begun and not ended
    waiting, summing = set[int](), set[int]()  # tensors that wait for their allreduce, and those that are summed
    spent, ends = [dict.fromkeys(PARTS, 0.0)], list[tuple[int, int]]()  # ends: (tensor, index in `spent`)
    then = None
    for event in sorted((each for each in events if each["ph"] in "BE"), key=lambda each: float(each["ts"])):
        part = "summing" if summing else "negotiating" if waiting else "computing"
        spent.append(spent[-1] | {part: spent[-1][part] + (event["ts"] - then if then is not None else 0.0)})
        then, tensor = event["ts"], event["pid"]
        open_events[tensor] += 1 if event["ph"] == "B" else -1
        if event["ph"] == "B":
            waiting.add(tensor)
            if not event["name"].startswith("NEGOTIATE"):
                summing.add(tensor)
        elif tensor in summing and open_events[tensor] == 0:
            waiting.remove(tensor)
            summing.remove(tensor)
            ends.append((tensor, len(spent) - 1))
    [(most, _)] = Counter(tensor for tensor, _ in ends).most_common(1)
    last = [index for tensor, index in ends if tensor == most][-steps - 1 :]
    first, end = spent[last[0]], spent[last[-1]]
    return {part: (end[part] - first[part]) / 1e3 / (len(last) - 1) for part in PARTS}


def measure(name: str, work: Work, steps: int) -> None:
    """Print the parts of a step, and the time of a step without the timeline."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "timeline.json"
        commands = [["env", f"HOROVOD_TIMELINE={file}", *command] for command in work.commands]
        run_steps(Work(commands, work.processes, work.images), steps)
        text = file.read_text()
    # The process is killed, so the last event of the file may be incomplete.
    found = parts_of(json.loads(text[: text.rindex("},")] + "}]"), steps)
    seconds, processor_seconds = run_steps(work, steps)
    print(
        f"{name:16}",
        *(f"{found[part]:5.2f} ms {part}," for part in PARTS),
        f"{sum(found.values()):5.2f} ms in all; without the timeline {1e3 * seconds / steps:5.2f} ms,",
        f"{1e3 * processor_seconds / steps / work.processes:5.2f} ms of processor time in each process",
        flush=True,
    )


def run_steps(work: Work, steps: int) -> tuple[float, float]:
    """Return the seconds of `steps` steps and the processor seconds of all processes."""
    group = Group(work)
    try:
        group.wait()
        group.run(WARMUP)
        return group.run(steps)
    finally:
        group.close()


def main(argv: list[str]) -> int:
    """Measure both programs."""
    if not argv or not Path(argv[0]).is_file():
        print(__doc__, file=sys.stderr)
        return 2
    file, steps = argv[0], int(argv[1]) if len(argv) > 1 else 500
    measure("this program", ours(2, network="tiny", data="8", images=8), steps)
    measure("Horovod's example", example(file, 2, network="tiny", data="8", images=8), steps)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
