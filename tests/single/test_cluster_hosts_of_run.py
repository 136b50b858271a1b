"""A run stops if its hosts are not those that were asked for, or do not fit together."""

import pytest

from app.world.world import WrongHosts, check_devices, check_hosts


def test_the_hosts_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    check_hosts(["a", "a"], ["boot1 a", "boot1 a"])  # the user has named no hosts, so any are right
    monkeypatch.setenv("APP_PROCESSES_PER_HOST", "2,1")
    check_hosts(["a", "a", "b"], ["boot1 a", "boot1 a", "boot2 b"])
    check_hosts(["b", "a", "a"], ["boot2 b", "boot1 a", "boot1 a"])  # a launcher may use another order
    check_hosts(["a", "a", "a"], ["boot1 a", "boot1 a", "boot2 a"])  # two machines have the same name
    with pytest.raises(WrongHosts, match="asked for 2 hosts with 2, 1 processes, but they run on a:3"):
        check_hosts(["a", "a", "a"], ["boot1 a"] * 3)


def test_hosts_with_and_without_gpus() -> None:
    check_devices(["a", "b"], ["cpu", "cpu"])
    check_devices(["a", "b"], ["cuda", "cuda"])
    with pytest.raises(WrongHosts, match="rank 1 on b finds no GPU, but rank 0 on a does"):
        check_devices(["a", "b", "b"], ["cuda", "cpu", "cpu"])
