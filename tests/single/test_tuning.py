"""Options of the reduction, as Horovod's and NCCL's variables."""

import pytest

from app.cluster.tuning import Tuning
from app.recipe.config import Config
from app.recipe.errors import UserError


def test_variables() -> None:
    assert Tuning().environment(nccl=True) == {}
    assert Tuning(0, 0).environment(nccl=False) == {"HOROVOD_FUSION_THRESHOLD": "0", "HOROVOD_CYCLE_TIME": "0"}
    assert Tuning(1.5, 0.25, "ring").environment(nccl=True) == {
        "HOROVOD_FUSION_THRESHOLD": "1572864",
        "HOROVOD_CYCLE_TIME": "0.25",
        "NCCL_ALGO": "Ring",
    }


def test_refusals() -> None:
    with pytest.raises(UserError, match=r"--allreduce tree is NCCL's"):
        Tuning(allreduce="tree").environment(nccl=False)
    for field in ("fusion_mb", "cycle_ms"):
        with pytest.raises(UserError, match=field.replace("_", "-")):
            Config(**{field: -2.0})  # type: ignore[arg-type]
