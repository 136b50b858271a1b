"""Start the docker daemon and build each image once for all tests with containers."""

from collections.abc import Iterator

import docker_daemon
import pytest
from docker_daemon import GPU_IMAGE, Daemon


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
