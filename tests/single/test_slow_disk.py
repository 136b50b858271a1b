"""The slow file system of benchmarks/storage.py shows the same files as the folder that it copies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


def test_a_slow_copy_holds_the_same_files(tmp_path: Path) -> None:
    folder, place = tmp_path / "folder", tmp_path / "slow"
    place.mkdir()
    (folder / "many").mkdir(parents=True)
    content = np.random.default_rng(0).bytes(3_000_000)
    (folder / "large").write_bytes(content)
    for number in range(300):
        (folder / f"many/{number}").write_text(str(number))
    command = [sys.executable, "-m", "benchmarks.slow_disk", str(folder), str(place), "--delay", "0.1"]
    disk = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert disk.stdout is not None
    if disk.stdout.readline() != "mounted\n":
        pytest.skip("this machine does not let this user mount FUSE file systems")
    try:
        assert (place / "large").read_bytes() == content
        descriptor = os.open(place / "large", os.O_RDONLY)
        assert os.pread(descriptor, 110_000, 700_001) == content[700_001:810_001]
        os.close(descriptor)
        assert sorted(os.listdir(place)) == ["large", "many"]
        assert {path.name: path.read_text() for path in (place / "many").iterdir()} == {
            str(n): str(n) for n in range(300)
        }
        assert (place / "large").stat().st_mtime_ns == (folder / "large").stat().st_mtime_ns
        with pytest.raises(FileNotFoundError):
            (place / "gone").stat()
        with pytest.raises(OSError, match="Read-only"):
            (place / "new").write_text("-")
    finally:
        disk.send_signal(signal.SIGTERM)
        disk.communicate(timeout=20)
    assert os.listdir(place) == []
