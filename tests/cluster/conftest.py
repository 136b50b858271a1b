"""Start the docker daemon and build the image once for all tests with containers."""

from collections.abc import Iterator

import docker_daemon
import pytest
from docker_daemon import Daemon


@pytest.fixture(scope="session")
def daemon() -> Iterator[Daemon]:
    """Yield a docker daemon that has the image."""
    if reason := docker_daemon.missing():
        pytest.skip(reason)
    daemon = Daemon()
    try:
        docker_daemon.make_network(daemon)
        docker_daemon.build_image(daemon)
        yield daemon
    finally:
        daemon.close()
