"""docs/contributing.md is correct: each addition works in a copy of the app that is changed only where it says."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/contributing.md").read_text()
PLACES = {"One": 1, "Two": 2}

Edits = list[tuple[str, str, str]]  # file, text in it ("" for a new file), text to insert after it

NETWORK: Edits = [("app/recipe/models.py", "MODELS = {\n", '    "resnet26": Architecture((4, 4, 4), small=True),\n')]
SOURCE: Edits = [
    ("app/data/sources.py", "SOURCES: dict[str, DataSet] = {\n", """
    "inverted": DataSet("black digits on white", DataSize(1077, 720, 10, 1, 8), lambda options: open_inverted(options)),
"""),
    ("app/data/sources.py", "import difflib\n", """
def open_inverted(options):
    from app.data import digits, openers

    train, validation = (digits.Images(255 - images, labels) for images, labels in digits.digits())
    return openers.open_arrays(options, train, validation, digits.CLASSES)

"""),
]  # fmt: skip
WARMUP: Edits = [
    (
        "app/recipe/schedule.py",
        "WARMUPS = {\n",
        '    "quadratic": Warmup("a rise that becomes faster", lambda eta, peak, epoch, length: eta\n'
        "        + (peak - eta) * (epoch / length) ** 2),\n",
    )
]
SCHEDULE: Edits = [
    (
        "app/recipe/schedule.py",
        "SCHEDULES = {\n",
        '    "linear": Schedule("a straight line to 0 at the end", lambda config, epoch, start: 1\n'
        '        - _progress(config, epoch, start), source="He et al. 2019"),\n',
    )
]
RECIPE: Edits = [
    ("app/recipe/presets.py", "] = {\n", '    "mine": ("a third of the epochs", {**IMAGENET, "epochs": 30}),\n')
]
OPTION: Edits = [
    (
        "app/recipe/config.py",
        '    log_every: int = option(10, "run", "steps between lines of the log", limits=ABOVE_0, free=True)\n',
        '    dropout: float = option(0.0, "optimizer", "share of the features that are left out")\n',
    )
]
COMMAND: Edits = [
    ("app/commands/__init__.py", "COMMANDS = {\n", '    "hello": Command("say hello"),\n'),
    ("app/commands/hello.py", "", """
from app.recipe.options import Parser
def make_parser():
    return Parser(prog="./run.sh hello", epilog="example: ./run.sh hello")
def parse(argv):
    return make_parser().parse(argv)
def main(argv):
    parse(argv)
    print("hello")
"""),
]  # fmt: skip

LAUNCHER: Edits = [
    ("app/launch/command_line.py", "LAUNCHERS = {\n", """
    "sh": Launcher("one process", lambda launch, where: [
        "sh", "-c", '"$@" | sed -u "s/^/[0]<stdout>:/"', "sh", *launch.program
    ]),
"""),
]  # fmt: skip

CASES = {  # what is added -> edits, command, text in the command's output
    "network": (NETWORK, ["plan", "--model", "resnet26", "--json"], '"parameters"'),
    "data source": (SOURCE, ["plan", "--data", "inverted", "--minibatch", "32"], "1,077 training"),
    "warmup": (WARMUP, ["plan", "--recipe", "paper-8k", "--warmup", "quadratic"], "after quadratic warmup"),
    "schedule": (
        SCHEDULE,
        ["audit", "--recipe", "paper-8k", "--schedule", "linear"],
        "--schedule linear (He et al. 2019)",
    ),
    "recipe": (RECIPE, ["plan", "--recipe", "mine"], "30 epochs"),
    "option": (OPTION, ["train", "--help-all"], "--dropout DROPOUT"),
    "command": (COMMAND, ["hello"], "hello"),
}


def copy_with(edits: Edits, folder: Path) -> None:
    shutil.copytree(ROOT / "app", folder / "app", ignore=shutil.ignore_patterns("__pycache__", "setup"))
    for name, found, added in edits:
        path = folder / name
        text = path.read_text() if found else ""
        assert text.count(found) == 1 or not found, f"{name} holds {found!r} {text.count(found)} times"
        path.write_text(text.replace(found, found + added) or added)


def run(folder: Path, *arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("what", CASES)
def test_addition(what: str, tmp_path: Path) -> None:
    edits, command, shows = CASES[what]
    stated = re.search(rf"\*\*An? {what}\.\*\* (\w+) place", PAGE)
    assert stated and len({name for name, _, _ in edits}) <= PLACES[stated[1]]
    assert all(f"`{name}`" in PAGE for name, found, _ in edits if found)
    copy_with(edits, tmp_path)
    assert shows in run(tmp_path, "-m", "app", *command)


def test_a_network_and_a_data_source_train(tmp_path: Path) -> None:
    """An added data source is in the help, doctor looks for no folder of its name, and --skip-list refuses it."""
    copy_with(NETWORK + SOURCE, tmp_path)
    assert "inverted, digits, " in " ".join(run(tmp_path, "-m", "app", "train", "--help").split())
    answers = json.loads(run(tmp_path, "-m", "app.start", "doctor", "--data", "inverted", "--json"))["findings"]
    assert answers and "data" not in {answer["check"] for answer in answers}
    with pytest.raises(AssertionError, match="leave it out with --data inverted"):
        run(tmp_path, "-m", "app", "train", "--data", "inverted", "--skip-list", "list.txt")
    options = ["--model", "resnet26", "--width", "4", "--data", "inverted", "--recipe", "digits", "--epochs", "1"]
    assert "result: top-1 error" in run(tmp_path, "-m", "app", "train", *options, "--output", "run")


def test_a_launcher_launches(tmp_path: Path) -> None:
    """An added launcher is in the help, doctor uses it, and it starts a run."""
    assert re.search(r"\*\*A launcher\.\*\* One place .*`LAUNCHERS` in `app/launch/command_line.py`", PAGE)
    copy_with(LAUNCHER, tmp_path)
    assert "sh (one process), horovodrun (Horovod's launcher)" in " ".join(
        run(tmp_path, "-m", "app.start", "--help").split()
    )
    start = ["-m", "app.start", "--launcher", "sh", "-np", "1"]
    options = ["train", "--width", "4", "--epochs", "1", "--device", "cpu", "--output", "run"]
    assert run(tmp_path, *start, "--dry-run", *options).startswith("sh -c ")
    assert "result: top-1 error" in run(tmp_path, *start, *options)
    found = json.loads(run(tmp_path, "-m", "app.start", "doctor", *start[2:], "--json"))["findings"]
    assert [each["status"] for each in found if each["check"] == "allreduce"] == ["ok"]


def test_a_warmup_and_a_schedule_train(tmp_path: Path) -> None:
    copy_with(WARMUP + SCHEDULE, tmp_path)
    shown = " ".join(run(tmp_path, "-m", "app", "train", "--help-all").split())
    assert "quadratic, a rise that becomes faster" in shown and "linear, a straight line to 0" in shown
    options = ["--recipe", "digits", "--width", "4", "--epochs", "2", "--warmup", "quadratic", "--warmup-epochs", "1",
               "--minibatch", "256", "--per-worker", "32", "--reference-minibatch", "128", "--reference-lr", "0.1",
               "--schedule", "linear"]  # fmt: skip
    plan = run(tmp_path, "-m", "app", "plan", *options)
    assert "after quadratic warmup" in plan and "a straight line to 0 at the end" in plan
    run(tmp_path, "-m", "app", "train", *options, "--log-every", "1", "--output", "run")
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    rates = [line["lr"] for line in lines if line["kind"] == "train"]
    # An epoch has 4 steps. The rate rises from 0.1 to 0.2 in the first epoch, and falls to 0 in the second.
    rise = [0.1 + 0.1 * (step / 4) ** 2 for step in range(4)]
    assert rates == pytest.approx([*rise, *(0.2 * (1 - step / 4) for step in range(4))])
