"""What every start of run.sh costs and says once the machine is set up. From nothing: tests/cluster/test_setup.py."""

import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
SETUP = ROOT / "app/setup/setup.sh"


def test_a_second_start_costs_nothing() -> None:
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
