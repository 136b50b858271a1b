"""A row of benchmarks/peers.py from its command line to its JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_row(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "benchmarks/peers.py", "--json", str(out), "--rows", "bare-1", "--rounds", "2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    row = json.loads(out.read_text())["bare-1"]
    assert row["ours"] > 0 and row["peer"] > 0 and 0.4 < row["ratio"] < 2.5
