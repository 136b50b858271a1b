"""The commands in the documentation work, and its links, options and quoted messages exist.

Blocks that are marked `sh run` or `python run` are run in the order of the page, in a separate folder for each page.
Other blocks need things that a test machine does not have, such as ImageNet or other hosts. Their lines with ./run.sh
are only parsed.
"""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from app.commands import COMMANDS, check
from app.launch.options import parse
from app.recipe.config import Config, flag, option_fields, to_json
from tests.support.fork_server import children_are_forks, fork_of, forked_app
from tests.support.programs import environ

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.glob("*.md")), *[p for p in [ROOT / "README.md"] if p.exists()]]
BLOCK = re.compile(r"^```(sh run|python run)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINE = re.compile(r"^(?: {4})?((?:\w+=\S+ )*\./run\.sh\b.*)$", re.MULTILINE)


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return the kind and the text of each block of a page whose first line is ```sh run or ```python run, in order."""
    return [(m[1], m[2]) for m in BLOCK.finditer(page.read_text())]


def commands(text: str) -> list[str]:
    return [line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Make a writable folder with links to the project's folders. Its run.sh starts the program without installing."""
    folder = tmp_path
    for name in ("tests", "docs", "hostfiles", ".venv"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "run.sh").write_text(f'#!/usr/bin/env bash\nexec {shlex.join(forked_app())} "$@"\n')
    (folder / "run.sh").chmod(0o755)
    return folder


def run(command: list[str], place: Path) -> None:
    variables = environ(XDG_CACHE_HOME=str(place / "cache"), **children_are_forks())
    done = subprocess.run(command, cwd=place, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: p.name)
def test_commands_run(page: Path, place: Path) -> None:
    for kind, text in blocks(page):
        if kind == "python run":
            run(fork_of("-c", text), place)
        else:
            for command in commands(text):
                run(["bash", "-c", command], place)


def read_only() -> list[tuple[str, str]]:
    """Return the page and the text of each line with ./run.sh that is not run."""
    rest = {page: BLOCK.sub("", page.read_text()).replace("\\\n", " ") for page in PAGES}
    return [(page.name, line) for page, text in rest.items() for line in LINE.findall(text)]


@pytest.mark.parametrize(("page", "command"), read_only())
def test_options_are_known(page: str, command: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_folder = place / "runs/some"
    run_folder.mkdir(parents=True)
    (run_folder / "events.out.tfevents.0").touch()
    (run_folder / "config.json").write_text(to_json(Config()))
    (place / "hosts.sh").touch(0o755)
    for name in ("resnet18.pth", "resnet50.pth"):
        (place / name).touch()
    monkeypatch.chdir(place)
    words = [word for word in shlex.split(command, comments=True) if word != "..."]
    words = words[words.index("./run.sh") + 1 :]
    if words[:1] not in (["setup"], ["test"], ["bundle"]):
        _, rest = parse(words, COMMANDS)
        check(rest)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_what_the_text_names_exists(page: Path) -> None:
    text = page.read_text()
    for name in re.findall(r"`\./run\.sh ([a-z][a-z-]*)", text):
        assert name in {*COMMANDS, "setup", "test", "bundle", "version"}, name
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (page.parent / link).exists(), link


def test_every_option_is_explained() -> None:
    text = (DOCS / "recipes.md").read_text()
    missing = [flag(f.name) for f in option_fields() if f"`{flag(f.name)}`" not in text]
    assert not missing


def test_troubleshooting_quotes_the_program() -> None:
    sources = "".join(p.read_text() for p in sorted((ROOT / "app").rglob("*")) if p.suffix in (".py", ".sh"))
    joined = re.sub(r'"\s*\n\s*f?"', "", sources)  # joins string literals over several lines
    quoted = re.findall(r"Message:\s+`([^`]+)`", (DOCS / "troubleshooting.md").read_text())
    assert len(quoted) > 20
    assert [text for text in quoted if text not in joined] == []
