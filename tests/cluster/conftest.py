"""The daemon and the image, once for all tests of containers."""

from collections.abc import Iterator

import docker_daemon
import pytest
from docker_daemon import Daemon


@pytest.fixture(scope="session")
def daemon() -> Iterator[Daemon]:
    """With the image in it."""
    if reason := docker_daemon.missing():
        pytest.skip(reason)
    daemon = Daemon()
    try:
        docker_daemon.make_network(daemon)
        docker_daemon.build_image(daemon)
        yield daemon
    finally:
        daemon.close()
