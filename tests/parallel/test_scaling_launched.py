"""The command `scaling` when it measures one and two processes."""

import json
from pathlib import Path

from tests.support.fork_server import children_are_forks
from tests.support.programs import APP, run


def test_one_and_two_processes(tmp_path: Path) -> None:
    options = ["--np", "1,2", "--rounds", 1, "--steps", 2, "--width", 4, "--output", tmp_path]
    run(*APP, "scaling", *options, **children_are_forks())
    found = json.loads((tmp_path / "scaling.json").read_text())
    assert [row["np"] for row in found["rows"]] == [1, 2]
    for row in found["rows"]:
        assert all(row[kind]["images_per_second"] > 0 and row[kind]["model"] > 0 for kind in ("synthetic", "real"))
    assert found["network"]["bandwidth"] > 0
    assert {path.name for path in tmp_path.iterdir()} == {"scaling.json", "table.md", "scaling.png", "scaling.svg"}
