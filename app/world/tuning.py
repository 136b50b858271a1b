"""The settings of Horovod and NCCL, which they read from environment variables when Horovod starts."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Self

import torch

from app.base.errors import UserError
from app.base.launcher_environment import is_elastic, local_size, threads_asked_for
from app.forecast.model_size import network_size
from app.recipe.config import Config
from app.recipe.data_size import image_size

_NAMED_BY_FUNCTION = (2, 24)  # the first NCCL with the algorithm of each function in NCCL_ALGO
LEAVE = -1.0  # Horovod decides, or the user's HOROVOD_* variables
CYCLE_COST_MS = 0.3  # processor time of one of Horovod's cycles over gloo; docs/performance.md
SHORT_PASS_MS = 10.0  # a pass of less than ten of Horovod's cycles: the first sums end only when the pass ends
LONGEST_MS = 25.0  # the longest cycle, as other collectives, for example of a commit, wait for a cycle too
CORE_PRODUCTS = 15e9  # the approximate number of multiplications that a core makes in convolutions in a second


@dataclass(frozen=True)
class Tuning:
    """The settings.

    fusion_mb: the size in MiB of the buffer in which small tensors are sent together.
    cycle_ms: the milliseconds between two searches for tensors that are ready.
    allreduce: NCCL's algorithm, "ring" or "tree"; "auto" leaves the choice to NCCL.
    overlap: whether gradients are summed layer by layer during the backward pass, "on", "off" or "auto".
    pass_ms: the approximate milliseconds of a process's forward and backward pass on one core; 0 if it is not known.
    """

    fusion_mb: float = LEAVE
    cycle_ms: float = LEAVE
    allreduce: str = "auto"
    overlap: str = "auto"
    pass_ms: float = 0.0

    @classmethod
    def of(cls, config: Config) -> Self:
        """Return the settings of a config. The time of a pass is estimated from its network."""
        network = network_size(config, image_size(config), 3, 1000)
        seconds = (
            3 * network.products * config.per_worker / CORE_PRODUCTS
        )  # a backward pass takes as long as two forward passes
        return cls(config.fusion_mb, config.cycle_ms, config.allreduce, config.overlap, 1e3 * seconds)

    def overlaps(self, cuda: bool, spare_cores: bool) -> bool:
        """Return whether gradients are summed during the backward pass.

        "auto" is yes on GPUs, and on CPUs with spare cores if the network is large enough. If all cores are in use, the
        sums would only interrupt the pass.

        Elastic runs always sum during the pass. Otherwise the gradients would be a group of Horovod's. Horovod makes a
        group by a collective when it wraps the optimizer, and a process that stays in an elastic run does not wrap a
        new one.
        """
        if is_elastic():
            return True
        if self.overlap != "auto":
            return self.overlap == "on"
        return cuda or (spare_cores and self.pass_ms >= SHORT_PASS_MS)

    def environment(self, nccl: bool) -> dict[str, str]:
        """Return the variables to set. Raises UserError for an algorithm that NCCL cannot choose.

        nccl: whether NCCL makes the sums.

        On a CPU, each cycle takes time from the cores that compute, and the last gradients wait for half a cycle on
        average. For a pass of P, the loss of time is smallest with cycles of sqrt(2 P cost). Horovod's own 1 ms is
        right for passes of 2 ms, and for any pass if each process has a spare core for Horovod's thread.
        """
        if self.allreduce != "auto" and not nccl:
            raise UserError(f"--allreduce {self.allreduce} is NCCL's, and no GPU is used here: leave it out")
        found = {}
        if self.fusion_mb != LEAVE:
            found["HOROVOD_FUSION_THRESHOLD"] = str(round(self.fusion_mb * 2**20))
        if self.cycle_ms != LEAVE:
            found["HOROVOD_CYCLE_TIME"] = f"{self.cycle_ms:g}"
        elif self.pass_ms and not nccl and not spare_cores() and "HOROVOD_CYCLE_TIME" not in os.environ:
            best = math.sqrt(2 * self.pass_ms * CYCLE_COST_MS)
            found["HOROVOD_CYCLE_TIME"] = f"{min(max(1.0, best), LONGEST_MS):.3g}"
        if self.allreduce != "auto":
            found["NCCL_ALGO"] = _nccl_algorithm(self.allreduce, torch.cuda.nccl.version())
        return found


def spare_cores() -> bool:
    """Return whether this host has a spare core for each process, as far as the environment says."""
    cores, processes = len(os.sched_getaffinity(0)), local_size()
    threads = threads_asked_for(os.environ) or max(1, cores // processes)
    return cores >= processes * (threads + 1)


def _nccl_algorithm(name: str, version: tuple[int, ...]) -> str:
    """Return the value of NCCL_ALGO that selects the algorithm of allreduces, for a version of NCCL.

    Since NCCL 2.24 an algorithm can be named for one function only. These versions refuse a broadcast if the algorithm
    that is named for all functions is the tree.
    """
    return f"allreduce:{name}" if version >= _NAMED_BY_FUNCTION else name.capitalize()
