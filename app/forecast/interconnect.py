"""A model of the allreduce: how long it takes, and how much of it is hidden behind the backward pass.

In section 4 of the paper, each algorithm sends and receives 2 (p - 1) / p times the size of the buffer over the link of
each of p servers. The algorithms differ in the number of messages that follow one another: 2 (p - 1) for the ring, and
2 log2(p) for recursive halving and doubling.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

ALLREDUCES = ("hierarchical", "halving-doubling", "ring")
# Horovod's defaults. In each cycle, all gradients that have become ready are summed in one message of at most
# FUSION_BYTES. A cycle lasts at least CYCLE_SECONDS, and longer if the previous allreduce takes longer.
CYCLE_SECONDS, FUSION_BYTES = 0.001, 64 * 2**20


@dataclass(frozen=True)
class Link:
    """The link of a server to the network, or of a GPU inside its server.

    Attributes:
        bytes_per_second: The bandwidth in each direction, while data are sent in both directions.
        latency: The time in seconds that an empty message takes.
    """

    bytes_per_second: float
    latency: float


@dataclass(frozen=True)
class Cluster:
    """Servers with the same number of GPUs each.

    Attributes:
        gpus_per_host: The number of GPUs of a server.
        network: The link of a server to the network.
        local: The link of a GPU inside its server.
        allreduce: The algorithm, a name in ALLREDUCES.
    """

    gpus_per_host: int
    network: Link
    local: Link
    allreduce: str

    def hosts(self, gpus: int) -> int:
        return -(-gpus // self.gpus_per_host)

    def allreduce_seconds(self, size: float, gpus: int) -> float:
        """Return the seconds of an allreduce of `size` bytes over `gpus` GPUs that do nothing else."""
        hosts = self.hosts(gpus)
        if self.allreduce == "hierarchical":
            inside = ring(size, min(gpus, self.gpus_per_host), self.local)
            return inside + halving_doubling(size, hosts, self.network)
        flat = {"ring": ring, "halving-doubling": halving_doubling}[self.allreduce]
        if hosts == 1:
            return flat(size, gpus, self.local)
        # The number of GPUs determines how many messages follow one another, and each message costs a latency. The
        # number of hosts determines how many bytes the link of a server carries: 2 (hosts - 1) / hosts times the
        # buffer. The number of GPUs does not matter for this: a ring enters and leaves each server only once, and
        # halving-doubling first reduces the data between the GPUs of a server.
        steps = flat(0.0, gpus, self.network)
        return steps + 2 * (hosts - 1) / hosts * size / self.network.bytes_per_second


def ring(size: float, members: int, link: Link) -> float:
    """Return the seconds of a ring allreduce of `size` bytes: 2 (p - 1) steps with size / p bytes each."""
    return 2 * (members - 1) * (link.latency + size / members / link.bytes_per_second)


def halving_doubling(size: float, members: int, link: Link) -> float:
    """Return the seconds of an allreduce of `size` bytes by recursive halving and doubling (Rabenseifner).

    It has 2 log2(p) steps. If p is not a power of two, the binary blocks algorithm needs 2 more steps.
    """
    steps = 2 * (members.bit_length() - 1) + (2 if members & (members - 1) else 0)
    return steps * link.latency + 2 * (members - 1) / members * size / link.bytes_per_second


def exposed_seconds(size: float, backward: float, allreduce: Callable[[float], float]) -> float:
    """Return the seconds for which the allreduce continues after the backward pass.

    The calculation simulates Horovod. Whenever the network is free, all gradients that are ready are sent in one
    message. The backward pass produces the gradients at a constant rate.

    Args:
        size: The size of all gradients in bytes.
        backward: The seconds of the backward pass.
        allreduce: Returns the seconds of an allreduce of a number of bytes.
    """
    now, sent = CYCLE_SECONDS, 0.0
    while sent < size:
        ready = size if now >= backward else size * now / backward
        message = min(ready - sent, FUSION_BYTES)
        # At the end `sent` is set to `size`, because the rounded sum of all messages may be smaller.
        sent = size if message == size - sent else sent + message
        now = max(now + allreduce(message), min(now + CYCLE_SECONDS, backward))
    return max(0.0, now - backward)


def slowest_of(workers: int) -> float:
    """Return the expected maximum of `workers` standard normal numbers, by Blom's approximation (1958)."""
    return NormalDist().inv_cdf((workers - 0.375) / (workers + 0.25))
