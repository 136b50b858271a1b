"""The versions of this program and of the packages that it uses, for `--version`."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("torch", "torchvision", "horovod", "mpi4py")
SECONDS = 5  # the time limit for git, which may be slow on a shared disk


def describe_version() -> str:
    """Return a line with the commit and the versions of Python and the main packages, without importing them."""
    packages = ", ".join(f"{name} {found}" for name in PACKAGES if (found := installed(name)))
    return f"large-minibatch-sgd, commit {commit()}; {packages}, Python {platform.python_version()}"


def commit() -> str:
    """Return the commit of this program, or "unknown" outside a git clone.

    If files differ from the commit, " (changed)" follows it.
    """
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty= (changed)", "--abbrev=12"]
    try:
        done = subprocess.run(git, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"


def installed(name: str) -> str:
    """Return the version of an installed package, or "" if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
