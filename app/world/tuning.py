"""The settings of Horovod and NCCL. Both read them from environment variables when Horovod starts."""

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

_NAMED_BY_FUNCTION = (2, 24)  # the first NCCL in which NCCL_ALGO can name an algorithm for each function
HOROVOD_DEFAULT = -1.0  # a setting with this value is left to Horovod, or to the user's HOROVOD_* variables
CYCLE_COST_MS = 0.3  # the processor time of one of Horovod's cycles over gloo (docs/performance.md)
SHORT_PASS_MS = 10.0  # if a pass is shorter, sums cannot end before the pass ends, so starting them early saves no time
LONGEST_MS = 25.0  # longer cycles are not set automatically, because every collective waits for the end of a cycle
CORE_PRODUCTS = 15e9  # the approximate number of multiplications per second of a core in convolutions


@dataclass(frozen=True)
class Tuning:
    """The settings of Horovod and NCCL for a run.

    Attributes:
        fusion_mb: The size in MiB of the buffer in which small tensors are sent together.
        cycle_ms: The milliseconds between two times at which Horovod looks for tensors that are ready.
        allreduce: NCCL's algorithm, "ring" or "tree"; "hierarchical", which sums with NCCL within a server and with MPI
            between servers (section 4 of the paper); or "auto" to leave the choice to NCCL.
        overlap: Whether gradients are summed layer by layer during the backward pass: "on", "off" or "auto".
        pass_ms: The approximate milliseconds of a forward and backward pass on one core, or 0 if not known.
    """

    fusion_mb: float = HOROVOD_DEFAULT
    cycle_ms: float = HOROVOD_DEFAULT
    allreduce: str = "auto"
    overlap: str = "auto"
    pass_ms: float = 0.0

    @classmethod
    def of(cls, config: Config) -> Self:
        """Return the settings of Horovod for a config.

        Some depend on the time of a forward and backward pass, which is estimated from the size of the network.
        """
        network = network_size(config, image_size(config), 3, 1000)
        # Forward and backward computation together take as long as three forward computations.
        seconds = 3 * network.products * config.per_worker / CORE_PRODUCTS
        return cls(config.fusion_mb, config.cycle_ms, config.allreduce, config.overlap, 1e3 * seconds)

    def overlaps(self, cuda: bool, spare_cores: bool) -> bool:
        """Return whether gradients are summed during the backward pass.

        "auto" means yes on GPUs. On CPUs it means yes if there are spare cores and the network is large enough. If all
        cores are in use, the sums would only interrupt the pass.

        Elastic runs always sum during the pass. To sum at the end of the pass, Horovod needs a group of tensors. All
        processes must create this group together when they wrap the optimizer. After a change of an elastic run's
        processes, only new processes wrap an optimizer, and they would wait for the others forever.

        Args:
            cuda: Whether the run uses GPUs.
            spare_cores: Whether every host has a spare core for each process.
        """
        if is_elastic():
            return True
        if self.overlap != "auto":
            return self.overlap == "on"
        return cuda or (spare_cores and self.pass_ms >= SHORT_PASS_MS)

    def environment(self, nccl: bool) -> dict[str, str]:
        """Return the environment variables that give these settings to Horovod and NCCL.

        Horovod looks for gradients to sum in regular cycles. On a CPU, each cycle takes time from the cores that
        compute, and the last gradients wait for half a cycle on average. If a pass takes the time P, and each
        cycle takes the time C from it, cycles of length T lose C P / T + T / 2. This is smallest for T = sqrt(2 P C).
        If each process has a spare core for Horovod's thread, cycles take nothing from the pass, and Horovod's default
        of 1 ms stays.

        Args:
            nccl: Whether NCCL computes the sums.

        Raises:
            UserError: --allreduce is given, but NCCL is not used. Or it is "hierarchical", but MPI is not used.
        """
        if self.allreduce != "auto" and not nccl:
            raise UserError(f"--allreduce {self.allreduce} is NCCL's, and no GPU is used here: leave it out")
        found = {}
        if self.fusion_mb != HOROVOD_DEFAULT:
            found["HOROVOD_FUSION_THRESHOLD"] = str(round(self.fusion_mb * 2**20))
        if self.cycle_ms != HOROVOD_DEFAULT:
            found["HOROVOD_CYCLE_TIME"] = f"{self.cycle_ms:g}"
        elif self.pass_ms and not nccl and not spare_cores() and "HOROVOD_CYCLE_TIME" not in os.environ:
            best = math.sqrt(2 * self.pass_ms * CYCLE_COST_MS)
            found["HOROVOD_CYCLE_TIME"] = f"{min(max(1.0, best), LONGEST_MS):.3g}"
        if self.allreduce == "hierarchical":
            if os.environ.get("HOROVOD_CONTROLLER") != "mpi":
                raise UserError(
                    "--allreduce hierarchical sums with MPI between servers: add --launcher mpirun before the command"
                )
            found["HOROVOD_HIERARCHICAL_ALLREDUCE"] = "1"
        elif self.allreduce != "auto":
            found["NCCL_ALGO"] = _nccl_algorithm(self.allreduce, torch.cuda.nccl.version())
        return found


def spare_cores() -> bool:
    """Return whether this host has, for each process, one core more than the cores on which the process computes.

    OMP_NUM_THREADS and the launcher's variables tell on how many cores the processes compute.
    """
    cores, processes = len(os.sched_getaffinity(0)), local_size()
    threads = threads_asked_for(os.environ) or max(1, cores // processes)
    return cores >= processes * (threads + 1)


def _nccl_algorithm(name: str, version: tuple[int, ...]) -> str:
    """Return the value of NCCL_ALGO that selects an algorithm for allreduces.

    Since NCCL 2.24 the value can name an algorithm for one function only. These versions refuse a broadcast if the tree
    is selected for all functions.

    Args:
        name: "ring" or "tree".
        version: The version of NCCL.
    """
    return f"allreduce:{name}" if version >= _NAMED_BY_FUNCTION else name.capitalize()
