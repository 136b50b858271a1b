"""How a run and its launcher start.

They do not import certain modules, because importing them takes long and they do not need them. A run needs no home
directory.
"""

import sys
from pathlib import Path

import pytest

from tests.support.programs import run


def test_a_run_imports_only_what_it_needs_and_needs_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even root can make files in its home directory. matplotlib would print warnings about that."""
    for name in ("MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    options = ["train", "--epochs", "1", "--width", "4", "--device", "cpu", "--output", str(tmp_path / "run")]
    stderr = run(sys.executable, "-X", "importtime", "-m", "app", *options, HOME="/proc/nope").stderr.splitlines()
    imported = {line.rpartition("|")[2].strip() for line in stderr if line.startswith("import time:")}
    assert "matplotlib" in imported
    assert not imported & {"torch._dynamo", "sympy", "torchvision", "sklearn", "scipy"}
    assert [line for line in stderr if not line.startswith("import time:")] == []


def test_networks_for_imagenet_do_not_import_torchvision() -> None:
    program = """
import sys, torch
from app.model.networks import make_network
from app.recipe.config import Config
with torch.device("meta"):
    make_network(Config(model="resnet50"), 3, 1000, torch.nn.BatchNorm2d)
print("torchvision" in sys.modules)
"""
    assert run(sys.executable, "-c", program).stdout == "False\n"


def test_horovodrun_does_not_import_torch() -> None:
    words = ["-m", "app.launch.horovodrun", "-np", "1", "--gloo", "--network-interfaces", "lo", "true"]
    imported = run(sys.executable, "-X", "importtime", *words).stderr  # of its child processes too
    assert "horovod.runner.launch" in imported and "torch" not in imported
