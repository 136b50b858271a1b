"""Measure the processor time of each thread in a step: python -m benchmarks.threads ROW [STEPS] [FILE].

ROW is a row of benchmarks/peers.py: ddp-2, or example-small-step with FILE, Horovod's pytorch_imagenet_resnet50.py. The
program measures this project and the other program of the row. Repeat the command on a busy machine.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.groups import Group, Work
from benchmarks.rows import ddp, example, ours

EPOLL_WAIT = ("232", "281", "22")  # system call numbers of epoll_wait and epoll_pwait on x86-64, epoll_pwait on ARM
TICKS = 100  # ticks in a second; /proc gives times in ticks


def thread_times(pid: int) -> dict[str, tuple[str, float, float]]:
    """Return a dict from thread id to (kind of thread, seconds in user mode, seconds in the kernel).

    The process must be stopped, so that each of its threads shows the system call in which it waits.
    """
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        name = (task / "comm").read_text().strip()
        waits_in = (task / "syscall").read_text().split()[0]
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        if task.name == str(pid):
            kind = "main"
        elif "gloo" in name or waits_in in EPOLL_WAIT:
            kind = "gloo's network threads and DDP's sums"
        else:
            kind = "Horovod's thread and others"
        found[task.name] = (kind, int(fields[11]) / TICKS, int(fields[12]) / TICKS)
    return found


def measure(name: str, work: Work, steps: int) -> None:
    """Print the milliseconds per step of each kind of thread, averaged over the processes."""
    group = Group(work)
    try:
        group.wait()
        group.run(5)
        before = [thread_times(pid) for pid in group.pids]
        group.run(steps)
        after = [thread_times(pid) for pid in group.pids]
    finally:
        group.close()
    total: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for then, now in zip(before, after, strict=True):
        for thread, (kind, user, kernel) in now.items():
            _, user_before, kernel_before = then.get(thread, (kind, 0.0, 0.0))
            total[kind][0] += user - user_before
            total[kind][1] += kernel - kernel_before
    for kind, seconds in sorted(total.items()):
        user, kernel = (1e3 * value / steps / work.processes for value in seconds)
        print(f"{name:8} {kind:40} {user:8.2f} ms in user mode {kernel:8.2f} ms in the kernel", flush=True)


def main(argv: list[str]) -> int:
    """Measure both programs of a row."""
    row, steps, file = [*argv, *["", "", ""][len(argv) :]]
    if row == "ddp-2":
        sides = {"ours": ours(2), "peer": ddp(2)}
    elif row == "example-small-step" and Path(file).is_file():
        small = {"network": "tiny", "data": "8"}
        sides = {"ours": ours(2, **small, images=8), "peer": example(file, 2, **small, images=8)}
    else:
        print(__doc__, file=sys.stderr)
        return 2
    for name, work in sides.items():
        measure(name, work, int(steps or 10))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
