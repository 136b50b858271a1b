"""The options for the speed of sums become environment variables of Horovod and NCCL."""

import os
from dataclasses import replace

import pytest
import torch

from app.base.errors import UserError
from app.recipe.config import Config
from app.world import world
from app.world.tuning import Tuning, _nccl_algorithm

CORES = len(os.sched_getaffinity(0))


def test_variables() -> None:
    assert Tuning().environment(nccl=True) == {}
    assert Tuning(0, 0).environment(nccl=False) == {"HOROVOD_FUSION_THRESHOLD": "0", "HOROVOD_CYCLE_TIME": "0"}
    assert Tuning(1.5, 0.25, "ring").environment(nccl=True) == {
        "HOROVOD_FUSION_THRESHOLD": "1572864",
        "HOROVOD_CYCLE_TIME": "0.25",
        "NCCL_ALGO": "allreduce:ring",
    }
    assert torch.cuda.nccl.version() >= (2, 24)  # since 2.24, NCCL understands "allreduce:ring"
    assert [_nccl_algorithm("tree", version) for version in ((2, 21, 5), (2, 24, 3))] == ["Tree", "allreduce:tree"]


def test_sums_with_nccl_within_servers_and_mpi_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOROVOD_CONTROLLER", "gloo")
    with pytest.raises(UserError, match="hierarchical sums with MPI between servers: add --launcher mpirun"):
        Tuning(allreduce="hierarchical").environment(nccl=True)
    monkeypatch.setenv("HOROVOD_CONTROLLER", "mpi")
    assert Tuning(allreduce="hierarchical").environment(nccl=True) == {"HOROVOD_HIERARCHICAL_ALLREDUCE": "1"}


def test_cycles_follow_the_length_of_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOROVOD_CYCLE_TIME", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", str(CORES))

    def cycle(**fields: object) -> float:
        return float(Tuning.of(Config(**fields)).environment(nccl=False)["HOROVOD_CYCLE_TIME"])  # type: ignore[arg-type]

    assert cycle(data="digits", per_worker=8) == 1.0
    # A pass takes 947 ms: ResNet-18 needs 3 times 0.148e9 products for each of 32 images, at 15e9 products per second.
    assert cycle(data="synthetic", model="resnet18", image_size=64) == pytest.approx((2 * 947 * 0.3) ** 0.5, rel=0.02)
    assert Tuning.of(Config(data="synthetic", model="resnet18")).environment(nccl=True) == {}
    assert cycle(data="synthetic", model="resnet50", image_size=224) == 25.0
    assert cycle(model="resnet50", data="synthetic", cycle_ms=2.0) == 2.0
    monkeypatch.setenv("HOROVOD_CYCLE_TIME", "5")  # horovodrun sets this variable for its option --cycle-time-ms
    assert Tuning.of(Config(model="resnet50", data="synthetic")).environment(nccl=False) == {}


@pytest.mark.skipif(CORES < 2, reason="needs 2 cores")
def test_cycles_are_horovod_s_where_it_has_cores_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    tuning = Tuning.of(Config(data="synthetic", model="resnet18", image_size=64))
    for name in ("HOROVOD_CYCLE_TIME", "HOROVOD_LOCAL_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for processes, threads, left in (
        (CORES, "1", False),
        (CORES // 2, "1", True),
        (1, str(CORES - 1), True),
        (1, str(CORES), False),
        (1, f"{CORES},1", False),  # OMP_NUM_THREADS may be a list, whose first number counts
    ):
        monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", str(processes))
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        assert tuning.environment(nccl=False).keys() == (set() if left else {"HOROVOD_CYCLE_TIME"})
    monkeypatch.delenv("OMP_NUM_THREADS")  # without this variable torch uses all cores
    assert "HOROVOD_CYCLE_TIME" in tuning.environment(nccl=False)


def test_sums_wait_for_the_end_of_a_short_pass_and_on_cores_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    large, small = Config(data="synthetic", model="resnet18", image_size=64), Config(data="digits")
    for config, cuda, spare, early in (
        (large, False, True, True),
        (large, False, False, False),
        (small, False, True, False),
        (large, True, False, True),
        (small, True, False, True),
        (replace(large, overlap="off"), True, True, False),
        (replace(small, overlap="on"), False, False, True),
    ):
        assert Tuning.of(config).overlaps(cuda, spare) is early
    monkeypatch.setenv("HOROVOD_ELASTIC", "1")  # an elastic run always sums layer by layer
    assert Tuning.of(replace(small, overlap="off")).overlaps(False, False)


def test_refusals() -> None:
    with pytest.raises(UserError, match=r"--allreduce tree is NCCL's"):
        Tuning(allreduce="tree").environment(nccl=False)
    for field in ("fusion_mb", "cycle_ms"):
        with pytest.raises(UserError, match=field.replace("_", "-")):
            Config(**{field: -2.0})  # type: ignore[arg-type]


@pytest.mark.skipif(CORES < 2, reason="needs 2 cores")
@pytest.mark.parametrize("given", ["0", "", "garbage"])
def test_a_number_of_threads_that_is_none_is_no_choice_of_a_rank_either(
    given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank that was started without ./run.sh ignores a wrong OMP_NUM_THREADS and uses its share of the cores."""
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        world.start(device="cpu")
        assert torch.get_num_threads() == CORES
    finally:
        world.stop()
        torch.set_num_threads(before)


def test_a_rank_refuses_a_value_on_which_horovod_would_abort(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOROVOD_GLOO_TIMEOUT_SECONDS", "abc")
    with pytest.raises(UserError, match="HOROVOD_GLOO_TIMEOUT_SECONDS='abc' in the environment is not a whole number"):
        world.join(device="cpu")
