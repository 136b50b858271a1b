"""Make the pictures in docs/images: three runs in TensorBoard and in a report. Takes about two minutes.

    .venv/bin/python -m tests.support.pictures docs/images

This needs the packages chromium and chromium-driver.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.support.browser import chromium, served, wait_for_curves, wait_for_text
from tests.support.programs import APP, run

RUNS = {"digits-8x16": [], "digits-2x16": ["--minibatch", 32], "no-warmup": ["--warmup", "none"]}
WIDTH, HEIGHT = 1280, 757  # the size of a picture in pixels


def main(place: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = [folder / "runs" / each for each in RUNS]
        for each, options in zip(runs, RUNS.values(), strict=True):
            run(*APP, "train", "--output", each, *options)
        run(*APP, "report", *runs, "--output", folder / "report")
        with chromium(folder / "profile") as driver, served(folder / "runs") as address:
            size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            driver.get(f"{address}#custom_scalars&_smoothingWeight=0")
            wait_for_text(driver, "error (%) against epoch", "Matches (6)")
            wait_for_curves(driver, 9)
            driver.save_screenshot(str(place / "board.png"))
            driver.get((folder / "report/report.html").as_uri())
            driver.save_screenshot(str(place / "report.png"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
