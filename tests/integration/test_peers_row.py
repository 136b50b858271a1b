"""Measure a row of benchmarks/peers.py by its command line, and check the JSON file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_row(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "benchmarks/peers.py", "--json", str(out), "--rows", "bare-1", "--seconds", "4"]
    command += ["--anyway"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    row = result["rows"]["bare-1"]
    assert row["ours"] > 0 and row["peer"] > 0 and row["ratio"] > 0  # other tests may slow one of the two programs
    assert row["pairs"] and 0.4 < row["cpu_ratio"] < 2.5 and 0 <= row["others"] <= 1
    assert result["machine"]["anyway"] and result["machine"]["cores_used"] >= 1
