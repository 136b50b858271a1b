"""`scaling` on one and two processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_one_and_two_processes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "app", "scaling", "--np", "1,2", "--rounds", "1", "--steps", "2"]
    command += ["--width", "4", "--output", str(tmp_path)]
    environ = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, env=environ, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "scaling.json").read_text())
    assert [row["np"] for row in found["rows"]] == [1, 2]
    for row in found["rows"]:
        assert all(row[kind]["images_per_second"] > 0 and row[kind]["model"] > 0 for kind in ("synthetic", "real"))
    assert found["network"]["bandwidth"] > 0
    assert {path.name for path in tmp_path.iterdir()} == {"scaling.json", "table.md", "scaling.png", "scaling.svg"}
