"""docker/apptainer.def copies all files that the program needs. The tests do not need Apptainer."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def section(name: str) -> list[str]:
    text = (ROOT / "docker/apptainer.def").read_text()
    found = re.search(rf"^%{name}\n(.*?)(?=^%|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found
    return [line.strip() for line in found[1].splitlines() if line.strip()]


def test_its_files_are_enough_for_set_up_and_for_the_program(tmp_path: Path) -> None:
    for line in section("files"):
        source, destination = line.split()  # a line must have two words, because Apptainer ignores others
        target = tmp_path / destination.removeprefix("/trainer/")
        subprocess.run(["cp", "-fLr", ROOT / source, target], check=True)
    dockerfile = (ROOT / "docker/Dockerfile").read_text()
    needed = re.findall(r"^COPY (run\.sh .*) \./$", dockerfile, re.MULTILINE)[0].split()
    assert len(needed) > 4 and all((tmp_path / name).is_file() for name in needed)
    plan = [sys.executable, "-m", "app.start", "plan", "--recipe", "paper-256"]
    said = subprocess.run(plan, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "minibatch" in said.stdout


def test_its_commands_are_those_of_the_docker_image() -> None:
    assert section("post")[:2] == ["cd /trainer", "./run.sh setup --{{ collectives }}"]
    assert section("runscript") == ['exec /trainer/run.sh "$@"']
    assert section("arguments") == ["base=debian:bookworm-slim", "collectives=nccl"]
