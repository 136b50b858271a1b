"""Settings of Horovod and NCCL, which they read from the environment when Horovod starts."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Self

from app.base.errors import UserError
from app.base.launcher_environment import is_elastic, local_size
from app.forecast.model_size import network_size
from app.recipe.config import Config
from app.recipe.data_size import image_size

LEAVE = -1.0  # leave it to Horovod, or to the user's HOROVOD_* variables
CYCLE_COST_MS = 0.3  # processor time of one of Horovod's cycles over gloo; docs/performance.md
SHORT_PASS_MS = 10.0  # or ten of Horovod's cycles: its end and that of the first sums fall together
LONGEST_MS = 25.0  # other collectives, as of a commit, wait for a cycle too
CORE_PRODUCTS = 15e9  # multiplications a second that a core makes in convolutions, roughly


@dataclass(frozen=True)
class Tuning:
    """fusion_mb: buffer in which small tensors travel together, in MiB; cycle_ms: between two looks for tensors that
    are ready, in milliseconds; allreduce: NCCL's algorithm, "ring", "tree", or "auto", which leaves the choice to NCCL;
    overlap: whether gradients are summed layer by layer during the backward pass, "on", "off" or "auto".
    """

    fusion_mb: float = LEAVE
    cycle_ms: float = LEAVE
    allreduce: str = "auto"
    overlap: str = "auto"
    pass_ms: float = 0.0  # of a process's forward and backward pass on one core, roughly; 0: not known

    @classmethod
    def of(cls, config: Config) -> Self:
        """What a config says, and what its network says of the time of a pass."""
        network = network_size(config, image_size(config), 3, 1000)
        seconds = 3 * network.products * config.per_worker / CORE_PRODUCTS  # backward is two forwards
        return cls(config.fusion_mb, config.cycle_ms, config.allreduce, config.overlap, 1e3 * seconds)

    def overlaps(self, cuda: bool, spare_cores: bool) -> bool:
        """Whether gradients are summed during the backward pass. "auto": on GPUs, and where CPUs have spare cores and a
        network large enough to gain. On cores in use the sums would only interrupt the pass, and be interrupted.

        Always in elastic runs: what waits for the end of the pass is a group of Horovod's, which makes its groups by a
        collective as it wraps the optimizer, and a process that stays wraps no new one.
        """
        if is_elastic():
            return True
        if self.overlap != "auto":
            return self.overlap == "on"
        return cuda or (spare_cores and self.pass_ms >= SHORT_PASS_MS)

    def environment(self, nccl: bool) -> dict[str, str]:
        """The variables to set; nccl: whether NCCL reduces. Raises UserError for an algorithm that it cannot choose.

        A cycle takes time from the cores that compute, on a CPU, and the last gradients wait for half of one: over a
        pass of P the least is lost at cycles of sqrt(2 P cost). Horovod's own 1 ms fits passes of 2 ms, and any pass
        where each process has a core left for Horovod's thread.
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
            found["NCCL_ALGO"] = self.allreduce.capitalize()
        return found


def spare_cores() -> bool:
    """Whether this host has a core for each process beside those that compute, as its environment says."""
    cores, processes = len(os.sched_getaffinity(0)), local_size()
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    threads = int(given) if given.isdecimal() else max(1, cores // processes)
    return cores >= processes * (threads + 1)
