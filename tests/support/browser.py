"""Start Chromium without a window, and the server of TensorBoard that it reads."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.programs import APP, environ

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--window-size=1500,1100",
]  # fmt: skip

# JavaScript that finds texts and curves. They are in shadow trees, which ordinary searches do not enter.
WALK = "const walk = (node, visit) => { visit(node); if (node.shadowRoot) walk(node.shadowRoot, visit);"
WALK += " for (const child of node.childNodes) walk(child, visit); };"
ALL_TEXT = (
    WALK + "let text = ''; walk(document.body, n => { if (n.nodeType == 3) text += n.data + ' '; }); return text;"
)
CURVES = WALK + (
    "let curves = 0; walk(document.body, n => { if (n.tagName == 'path' && (n.getAttribute('d') || '').length > 20"
    " && n.closest('.plot')) curves++; }); return curves;"
)


def missing() -> bool:
    """Return whether this machine lacks the packages chromium and chromium-driver."""
    return not (shutil.which("chromium") and shutil.which("chromedriver"))


@contextlib.contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """Yield selenium's driver of a Chromium that keeps its files in the folder `profile`."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in [*FLAGS, f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield started
    finally:
        started.quit()


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Start `./run.sh board` for a folder, yield the address of its page, and stop it afterwards."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [*APP, "board", folder.name, "--port", str(port)],
        cwd=folder.parent, env=environ(), stderr=subprocess.DEVNULL,
    )  # fmt: skip
    address = f"http://localhost:{port}/"
    try:
        for _ in range(300):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(address).read()
                break
            time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait()


def wait_for_text(driver: Any, *texts: str) -> None:
    """Wait up to a minute until the page shows all `texts`."""
    from selenium.webdriver.support.ui import WebDriverWait

    def found(page: Any) -> bool:
        shown = page.execute_script(ALL_TEXT)
        return all(text in shown for text in texts)

    WebDriverWait(driver, 60).until(found, f"{texts} not shown")


def wait_for_curves(driver: Any, count: int) -> None:
    """Wait up to a minute until TensorBoard's page shows at least `count` curves."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, 60).until(lambda page: page.execute_script(CURVES) >= count, "no curves drawn")
