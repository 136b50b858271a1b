"""Fixtures of tests/integration: a small trained run that many tests use, and a browser."""

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
    """Return a function that runs `python -m app ...` with `processes` ranks. The exit code must be `code`."""

    def run(*arguments: str | Path, processes: int = 1, code: int = 0) -> subprocess.CompletedProcess[str]:
        return run_to_its_end(*horovodrun(processes, *APP, *arguments), code=code)

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
