"""Start a training run from Python, for example in a notebook."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.base.errors import DONE, UserError
from app.base.program import BY_LAUNCHER
from app.base.text import nearest
from app.recipe.config import Config, flag
from app.recipe.options import resolve
from app.runs.run_folder import new_folder, resumed_folder

ROOT = Path(__file__).resolve().parents[2]


def train_in_processes(processes: int, options: Mapping[str, Any]) -> Path:
    """Run `./run.sh train` to its end, print its output, and return the folder of the run.

    Args:
        processes: The number of processes.
        options: The options of `train`, by the names of their fields in Config.

    Raises:
        UserError: An option is wrong, or the run has failed.
    """
    if processes < 1:
        raise UserError(f"processes is {processes}: give 1 or more")
    for name in options:
        if name not in Config.__dataclass_fields__ and name != "config":
            raise UserError(f"there is no option {name}: {nearest(name, Config.__dataclass_fields__)}")
    given = {name: value for name, value in options.items() if name != "output"}
    if "resume" in given:
        folder = resumed_folder(str(given["resume"]))
    else:
        folder = Path(options.get("output") or new_folder(resolve(given).recipe))
        given["output"] = str(folder)
    launch = ["-np", str(processes)] if processes > 1 else ["--launcher", "none"]
    _run([*BY_LAUNCHER, *launch, "train", *words_of(given)])
    return folder


def words_of(options: Mapping[str, Any]) -> list[str]:
    """Return options as words of a command line: {"epochs": 3, "grey": True} gives --epochs=3 --grey."""
    words = []
    for name, value in options.items():
        if isinstance(value, bool):
            words.append(flag(name) if value else flag(name).replace("--", "--no-", 1))
        else:
            text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            words.append(f"{flag(name)}={text}")
    return words


def _run(command: list[str]) -> None:
    """Run a command to its end and print its output.

    Raises:
        UserError: The command failed. The message of the exception is the last line of the output that begins with
            "error:". If there is no such line, it is the last line of the output.
    """
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    reason, interrupted = "", False
    # The command runs in a new session, so that an interrupt reaches it only once, by the signal below.
    with subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        while True:
            try:
                line = process.stdout.readline()
            except KeyboardInterrupt:
                process.send_signal(signal.SIGINT)
                interrupted = True
                continue
            if not line:
                break
            print(line, end="", flush=True)
            if line.startswith("error: ") or not reason.startswith("error: "):
                reason = line.strip() or reason
    if interrupted:
        raise KeyboardInterrupt
    if process.returncode != DONE:
        raise UserError(reason.removeprefix("error: "))
