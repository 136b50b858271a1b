"""What every start of run.sh costs and says once the machine is set up. From nothing: tests/cluster/test_setup.py."""

import os
import subprocess
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
SETUP = ROOT / "app/setup/setup.sh"


def test_a_second_start_costs_nothing() -> None:
    subprocess.run([SETUP, "--if-needed"], check=True)
    begun = time.monotonic()
    result = subprocess.run([SETUP, "--if-needed"], capture_output=True, text=True, cwd="/")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert time.monotonic() - begun < 2


def test_an_unknown_option_changes_nothing() -> None:
    result = subprocess.run([ROOT / "run.sh", "setup", "--gpu"], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr == "setup: unknown option --gpu; there are --cpu, --nccl and --stock-pillow\n"


def test_run_sh_is_found_through_a_link_and_from_any_folder(tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to(ROOT / "run.sh")
    result = subprocess.run(["./run", "setup", "--gpu"], capture_output=True, cwd=tmp_path)
    assert result.returncode == 2


def choose_build(operations: str, toolkit: Path) -> subprocess.CompletedProcess[str]:
    script = "set -euo pipefail; for part in steps python horovod; do . $here/$part.sh; done; choose_build"
    variables = {"here": SETUP.parent, "root": ROOT, "venv": ROOT / ".venv", "operations": operations}
    return subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "CUDA_HOME": str(toolkit), **{name: str(value) for name, value in variables.items()}},
        capture_output=True,
        text=True,
    )


def toolkit_of(folder: Path, release: str) -> Path:
    for file in ("bin/nvcc", "include/cuda_runtime.h"):
        (folder / file).parent.mkdir(parents=True)
        (folder / file).write_text(f"#!/bin/sh\necho Cuda compilation tools, release {release}, V{release}.1\n")
        (folder / file).chmod(0o755)
    return folder


def test_nccl_is_compiled_when_asked_for_and_only_with_the_toolkit_of_torch(tmp_path: Path) -> None:
    torchs = int(str(torch.version.cuda).split(".")[0])
    fitting = toolkit_of(tmp_path / "fitting", f"{torchs}.0")
    other = toolkit_of(tmp_path / "other", f"{torchs - 1}.8")
    assert choose_build("cpu", fitting).stdout == "cpu\n"
    assert choose_build("nccl", fitting).stdout == "nccl\n"
    refused = choose_build("nccl", other)
    assert refused.returncode == 1
    assert refused.stderr.startswith(
        f"setup --nccl: no CUDA {torchs} toolkit, which torch {torch.__version__[:6]} needs."
    )
    has_gpu = any(Path("/dev").glob("nvidia[0-9]*"))
    assert choose_build("auto", fitting).stdout == ("nccl\n" if has_gpu else "cpu\n")
    assert choose_build("auto", other).stdout == "cpu\n"
