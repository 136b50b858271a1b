"""benchmarks/gpu.sh runs each of its parts on a CPU, with tiny sizes. This takes 2 minutes."""

import json
from pathlib import Path

from tests.support.programs import ROOT, run

PARTS = ["tests", "peers", "step-4", "step-8", "step-compiled", "real-jpegs", "profile"]


def test_each_part_ends_with_its_files(tmp_path: Path) -> None:
    said = run(ROOT / "benchmarks/gpu.sh", tmp_path / "out", "--rehearse", longest=900).stdout
    summary = (tmp_path / "out/summary.txt").read_text()
    assert [line.split(" after ")[0] for line in summary.splitlines() if "exit code" in line] == [
        f"{part}: exit code 0" for part in PARTS
    ], said
    rows = json.loads((tmp_path / "out/peers.json").read_text())["rows"]
    assert set(rows) == {"gpu-bare", "gpu-ghosts"}
    for part in ("step-4", "step-8", "step-compiled", "real-jpegs"):
        assert json.loads((tmp_path / f"out/{part}.json").read_text())["synthetic"]["images_per_second"] > 0
        assert f"{part}: " in summary
    events = json.loads((tmp_path / "out/trace.json").read_text())["traceEvents"]
    assert any("conv" in event["name"] for event in events)


def test_without_a_gpu_it_says_how_to_rehearse(tmp_path: Path) -> None:
    said = run(ROOT / "benchmarks/gpu.sh", tmp_path / "out", code=2, CUDA_VISIBLE_DEVICES="").stdout
    assert said == "torch sees no GPU: run benchmarks/gpu.sh OUT --rehearse to try the script on a CPU\n"
