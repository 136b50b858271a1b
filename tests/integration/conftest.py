"""A small run on real images, which is trained once for all tests that only use it."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.programs import APP, horovodrun
from tests.support.programs import run as run_to_its_end

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--window-size=1500,1100",
]  # fmt: skip
App = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def app() -> App:
    """Run `python -m app ...` to its end, with `processes` under horovodrun. Fail if the exit code is not `code`."""

    def run(*arguments: str | Path, processes: int = 1, code: int = 0) -> subprocess.CompletedProcess[str]:
        return run_to_its_end(*horovodrun(processes, *APP, *arguments), code=code)

    return run


@pytest.fixture(scope="session")
def trained(app: App, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of 3 epochs on the digits."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    app("train", "--epochs", "3", "--output", folder)
    return folder


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real Chromium without a window. The test is skipped without one: apt-get install chromium chromium-driver."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no chromium and chromedriver on this machine")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in FLAGS:
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('browser')}")
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield started
    started.quit()
