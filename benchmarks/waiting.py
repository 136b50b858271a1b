"""Compare two ways to wait for an allreduce: `horovodrun -np 4 .venv/bin/python -m benchmarks.waiting [PAIRS]`.

The same steps of the same network are computed in turn with this program's wait and with Horovod's own wait. The
program prints the median ratio of steps per second, this program's wait over Horovod's, and its 95 % interval.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
from torch import nn

from app.base.failure import end
from app.world import world
from app.world.compression import Compression
from benchmarks.pairs import median_ratio

LAYERS, WIDTH, IMAGES, STEPS = 8, 256, 64, 30


def main(rounds: int) -> None:
    """Measure `rounds` pairs and print their median ratio. Every process must call this function."""
    here = world.start(device="cpu")
    torch.manual_seed(0)
    network = nn.Sequential(*[nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()) for _ in range(LAYERS)])
    sgd = torch.optim.SGD(network.parameters(), lr=1e-3)
    optimizer = world.distribute(sgd, network.named_parameters(), 1, Compression("none"))
    x = torch.randn(IMAGES, WIDTH)
    # Functions that wait for a sum: the program's, then Horovod's.
    waits = [optimizer.synchronize, type(optimizer).synchronize.__get__(optimizer)]

    def steps_per_second(wait: Callable[[], None]) -> float:
        optimizer.synchronize = wait
        world.sum_over_processes(torch.zeros(1))
        started = time.perf_counter()
        for _ in range(STEPS):
            optimizer.zero_grad()
            network(x).sum().backward()
            optimizer.step()
        return STEPS / (time.perf_counter() - started)

    pairs = [[steps_per_second(wait) for wait in waits] for _ in range(rounds + 1)][1:]  # the first pair is a warm-up
    if here.rank == 0:
        print(median_ratio([ours for ours, _ in pairs], [theirs for _, theirs in pairs]))
    world.stop()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
    end(0)
