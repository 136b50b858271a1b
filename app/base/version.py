"""Which version of this program and of the packages under it this is, for `--version`."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("torch", "torchvision", "horovod", "mpi4py")
SECONDS = 5  # that git may take, on a slow shared disk


def describe_version() -> str:
    """One line: the commit, the packages that decide on a result, and Python. It imports none of them."""
    packages = ", ".join(f"{name} {found}" for name in PACKAGES if (found := installed(name)))
    return f"large-minibatch-sgd, commit {commit()}; {packages}, Python {platform.python_version()}"


def commit() -> str:
    """The commit of this program, with "changed" where files differ from it; "unknown" outside a clone."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty= (changed)", "--abbrev=12"]
    try:
        done = subprocess.run(git, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"


def installed(name: str) -> str:
    """The version of an installed package, "" where there is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
