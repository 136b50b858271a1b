"""What an allreduce costs, how much of it hides behind the backward pass, and how late the slowest worker is.

Paper, section 4: every algorithm sends and receives 2 (p - 1) / p of the buffer over each server's link; they differ
in the number of messages one after the other, 2 (p - 1) for the ring and 2 log2(p) for recursive halving-doubling.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

ALLREDUCES = ("hierarchical", "halving-doubling", "ring")
# Horovod's defaults: it sums what became ready within a cycle, or while it was busy, in one message of at most 64 MiB.
CYCLE_SECONDS, FUSION_BYTES = 0.001, 64 * 2**20


@dataclass(frozen=True)
class Link:
    """bytes_per_second: each way at once, of a server (or a GPU inside it). latency: seconds of an empty message."""

    bytes_per_second: float
    latency: float


@dataclass(frozen=True)
class Cluster:
    """Servers of `gpus_per_host` GPUs, the network between them and the links inside."""

    gpus_per_host: int
    network: Link
    local: Link
    allreduce: str

    def hosts(self, gpus: int) -> int:
        return -(-gpus // self.gpus_per_host)

    def allreduce_seconds(self, size: float, gpus: int) -> float:
        """The sum of `size` bytes over `gpus`, nothing else going on."""
        hosts = self.hosts(gpus)
        if self.allreduce == "hierarchical":
            inside = ring(size, min(gpus, self.gpus_per_host), self.local)
            return inside + halving_doubling(size, hosts, self.network)
        flat = {"ring": ring, "halving-doubling": halving_doubling}[self.allreduce]
        if hosts == 1:
            return flat(size, gpus, self.local)
        # All GPUs take part in each step. A server's link carries 2 (hosts - 1) / hosts of the buffer all the same:
        # the ring crosses it once each way, and halving-doubling halves the data inside the server before it leaves.
        steps = flat(0.0, gpus, self.network)
        return steps + 2 * (hosts - 1) / hosts * size / self.network.bytes_per_second


def ring(size: float, members: int, link: Link) -> float:
    """Seconds of a ring allreduce of `size` bytes: 2 (p - 1) steps of size / p."""
    return 2 * (members - 1) * (link.latency + size / members / link.bytes_per_second)


def halving_doubling(size: float, members: int, link: Link) -> float:
    """Seconds of Rabenseifner's allreduce: 2 log2(p) steps; 2 more by binary blocks where p is no power of two."""
    steps = 2 * (members.bit_length() - 1) + (2 if members & (members - 1) else 0)
    return steps * link.latency + 2 * (members - 1) / members * size / link.bytes_per_second


def exposed_seconds(size: float, backward: float, allreduce: Callable[[float], float]) -> float:
    """What of the allreduce of `size` bytes is left after a backward pass that yields them evenly over its time.

    Played through as Horovod does it: whenever the network is free, all that is ready goes in one message.
    """
    now, sent = CYCLE_SECONDS, 0.0
    while sent < size:
        ready = size if now >= backward else size * now / backward
        message = min(ready - sent, FUSION_BYTES)
        sent = size if message == size - sent else sent + message  # exactly, whatever the rounding of the sum
        now = max(now + allreduce(message), min(now + CYCLE_SECONDS, backward))
    return max(0.0, now - backward)


def slowest_of(workers: int) -> float:
    """The expected largest of so many standard normal numbers (Blom 1958); 0 for one."""
    return NormalDist().inv_cdf((workers - 0.375) / (workers + 0.25))
