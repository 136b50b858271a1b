"""Start the docker daemon and build each image once for all tests with containers."""

from collections.abc import Iterator

import docker_daemon
import pytest
from docker_daemon import GPU_IMAGE, Daemon
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling


class _Scheduling(LoadFileScheduling):
    """With `--numprocesses 2 --dist loadfile`, two files run at the same time, but not two that use containers."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return "containers" if "test_docker" in file else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    return _Scheduling(config, log)


@pytest.fixture(scope="session")
def empty_daemon() -> Iterator[Daemon]:
    """Yield a docker daemon with a network, but without an image."""
    if reason := docker_daemon.missing():
        pytest.skip(reason)
    daemon = Daemon()
    try:
        docker_daemon.make_network(daemon)
        yield daemon
    finally:
        daemon.close()


@pytest.fixture(scope="session")
def daemon(empty_daemon: Daemon) -> Daemon:
    """Yield the docker daemon with the image for CPUs."""
    docker_daemon.build_image(empty_daemon)
    return empty_daemon


@pytest.fixture(scope="session")
def gpu_daemon(empty_daemon: Daemon) -> Daemon:
    """Yield the docker daemon with the image for GPUs."""
    docker_daemon.build_image(empty_daemon, "nccl", GPU_IMAGE)
    return empty_daemon
