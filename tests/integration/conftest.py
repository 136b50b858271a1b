"""Fixtures of tests/integration: a small trained run that many tests use, and a browser."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import chromium, missing
from tests.support.fork_server import fork_of
from tests.support.programs import horovodrun
from tests.support.programs import run as run_to_its_end

App = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def app() -> App:
    """Return a function that runs the app with `processes` ranks, which are forks. The exit code must be `code`."""

    def run(*arguments: str | Path, processes: int = 1, code: int = 0) -> subprocess.CompletedProcess[str]:
        return run_to_its_end(*horovodrun(processes, *fork_of("-m", "app"), *arguments), code=code)

    return run


@pytest.fixture(scope="session")
def trained(app: App, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that was trained on the digits for 3 epochs. Tests must not change it."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    app("train", "--epochs", "3", "--output", folder)
    return folder


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Yield a Chromium without a window. Without the packages chromium and chromium-driver, the test is skipped."""
    if missing():
        pytest.skip("no chromium and chromedriver on this machine")
    with chromium(tmp_path_factory.mktemp("browser")) as started:
        yield started
