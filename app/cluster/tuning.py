"""How Horovod and NCCL reduce: read from the environment when Horovod starts."""

from __future__ import annotations

from dataclasses import dataclass

from app.recipe.errors import UserError

LEAVE = -1.0  # as Horovod has it, or as its own variables or horovodrun's options say


@dataclass(frozen=True)
class Tuning:
    """fusion_mb: buffer in which small tensors travel together, in MiB; cycle_ms: between two looks for tensors that
    are ready, in milliseconds; allreduce: NCCL's algorithm, "ring", "tree", or "auto", which leaves the choice to NCCL.
    """

    fusion_mb: float = LEAVE
    cycle_ms: float = LEAVE
    allreduce: str = "auto"

    def environment(self, nccl: bool) -> dict[str, str]:
        """The variables to set; nccl: whether NCCL reduces. Raises UserError for an algorithm that it cannot choose."""
        if self.allreduce != "auto" and not nccl:
            raise UserError(f"--allreduce {self.allreduce} is NCCL's, and no GPU is used here: leave it out")
        found = {}
        if self.fusion_mb != LEAVE:
            found["HOROVOD_FUSION_THRESHOLD"] = str(round(self.fusion_mb * 2**20))
        if self.cycle_ms != LEAVE:
            found["HOROVOD_CYCLE_TIME"] = f"{self.cycle_ms:g}"
        if self.allreduce != "auto":
            found["NCCL_ALGO"] = self.allreduce.capitalize()
        return found
