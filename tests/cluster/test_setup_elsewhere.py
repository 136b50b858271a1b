"""Set-up with an installed torch, and without a network.

The installed torch is that of this project's .venv, so that Horovod need not be compiled again. The tests take 3
minutes. The variable APP_TEST_TORCH names a Python with another torch, for which Horovod is compiled.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TORCH = Path(os.environ.get("APP_TEST_TORCH", ROOT / ".venv/bin/python"))
PACKAGES = TORCH.parents[1] / "lib"
without_network = pytest.mark.skipif(
    subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode != 0, reason="unshare --net needs root"
)
WHERE = "import json, horovod, PIL, torch; print(json.dumps([m.__file__ for m in (horovod, PIL, torch)]))"


def clone(folder: Path) -> Path:
    folder.mkdir()
    subprocess.run(f"git ls-files -z | xargs -0 tar -c | tar -x -C '{folder}'", shell=True, check=True, cwd=ROOT)
    return folder


def run(*command: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | variables
    return subprocess.run(
        command, cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=3600
    )


@without_network
def test_an_existing_torch_and_a_bundle_without_a_network(tmp_path: Path) -> None:
    first, second = clone(tmp_path / "first"), clone(tmp_path / "second")
    there = sorted(PACKAGES.rglob("*.dist-info"))
    done = run("./run.sh", "setup", "--cpu", "--torch", TORCH, cwd=first)
    assert done.returncode == 0, done.stdout
    assert f"Installing what {TORCH} lacks" in done.stdout
    # Horovod and Pillow-SIMD are installed into the new .venv. torch is not.
    places = run(first / ".venv/bin/python", "-c", WHERE, cwd=tmp_path).stdout
    assert [str(first) in place for place in places.split(",")] == [True, True, False]
    assert sorted(PACKAGES.rglob("*.dist-info")) == there

    done = run("./run.sh", "bundle", tmp_path / "packages", cwd=first)
    assert done.returncode == 0, done.stdout
    shutil.rmtree(first)
    no_cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    setup = ["./run.sh", "setup", "--cpu", "--torch", TORCH, "--bundle", tmp_path / "packages"]
    done = run("unshare", "--net", *setup, cwd=second, **no_cache)
    assert done.returncode == 0, done.stdout
    assert "Compiling" not in done.stdout
    job = "ip link set lo up; exec ./run.sh -np 2 train --epochs 1 --minibatch 256"
    done = run("unshare", "--net", "sh", "-c", job, cwd=second, **no_cache)
    assert done.returncode == 0, done.stdout


def test_what_cannot_be_used_is_said(tmp_path: Path) -> None:
    here = clone(tmp_path / "here")
    done = run("./run.sh", "setup", "--torch", "no-such-python", cwd=here)
    assert (done.returncode, done.stdout) == (2, "setup: --torch: there is no such Python\n")
    done = run("./run.sh", "setup", "--bundle", "no-such-file", cwd=here)
    assert (done.returncode, done.stdout) == (2, "setup: --bundle no-such-file: there is no such file\n")
    done = run("./run.sh", "setup", "--torch", "/usr/bin/python3", cwd=here)
    assert done.returncode == 1
    assert "/usr/bin/python3 must have torch 2.6 or newer" in done.stdout
    (tmp_path / "file").write_text("no archive")
    done = run("./run.sh", "setup", "--torch", TORCH, "--bundle", tmp_path / "file", cwd=here)
    assert done.returncode == 1
    assert f"{tmp_path}/file is not a file that ./run.sh bundle made." in done.stdout
    assert not (here / ".venv").exists()
