"""All commands: help appears quickly, wrong options are refused in one line, and completion works in a shell."""

import importlib
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from app.__main__ import help_text
from app.base import errors
from app.base.errors import UserError
from app.commands import COMMANDS, module_of
from app.recipe.config import flag, option_fields
from tests.support.programs import run


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", *arguments, code=None)


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command: str) -> None:
    """Help takes at most 0.3 s of processor time. Elapsed time would depend on other programs of the machine."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    shown = python("app", command, "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.3
    assert shown.returncode == 0 and not shown.stderr
    assert "example" in shown.stdout and "./run.sh " in shown.stdout
    for line in importlib.import_module(module_of(command)).make_parser()._actions:
        assert line.help, f"{line.dest} has no help"


def test_help_begins_with_the_options_that_matter(capsys: pytest.CaptureFixture[str]) -> None:
    """`--help-all` shows every option of Config. `--help` shows six of them, and the options of the command itself."""

    def shown(command: str, word: str) -> list[str]:
        with pytest.raises(SystemExit):
            importlib.import_module(module_of(command)).make_parser().parse([word])
        return re.findall(r"^  (?:-h, )?(--[a-z0-9-]+)", capsys.readouterr().out, re.MULTILINE)

    six = ["--data", "--model", "--epochs", "--minibatch", "--reference-lr", "--output"]
    assert shown("train", "--help") == [*six, "--help", "--help-all", "--config"]
    every = shown("train", "--help-all")
    assert every[:6] == six and {flag(f.name) for f in option_fields()} <= set(every) and len(set(every)) == len(every)
    brief = shown("plan", "--help")
    assert brief[:5] == six[:5] and "--gpus" in brief and "--momentum" not in brief


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_option_names_the_nearest(command: str) -> None:
    module = importlib.import_module(module_of(command))
    needed = [a for a in module.make_parser()._actions if not a.option_strings and a.nargs not in ("?", "*")]
    values = [str(a.choices[0]) if a.choices else "x" for a in needed]
    with pytest.raises(UserError, match=r"did you mean --help\?"):
        module.parse([*values, "--hepl"])


def test_no_command_imports_torch_to_answer() -> None:
    code = (
        "import importlib, sys; from app.commands import COMMANDS, module_of;"
        "[importlib.import_module(module_of(c)).make_parser() for c in COMMANDS];"
        "print([m for m in ('torch', 'numpy', 'horovod', 'matplotlib') if m in sys.modules])"
    )
    assert run(sys.executable, "-c", code).stdout == "[]\n"


def test_exit_codes_are_documented() -> None:
    documented = {int(code) for code in re.findall(r"^  (\d+) ", help_text(), re.MULTILINE)}
    assert documented == {value for name, value in vars(errors).items() if name.isupper() and isinstance(value, int)}


def test_unknown_command() -> None:
    shown = python("app", "trian")
    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr == "no command 'trian': did you mean train?\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["./run.sh", "tr"], {"train"}),
        (["./run.sh", "train", "--minib"], {"--minibatch"}),
        (["./run.sh", "train", "--warmup", ""], {"gradual", "constant", "none"}),
        (["./run.sh", "evaluate", "--devi"], {"--device"}),
    ],
)
def test_completion_in_bash(words: list[str], expected: set[str], tmp_path: Path) -> None:
    script = tmp_path / "completion"
    script.write_text(python("app", "completion", "bash").stdout)
    typed = " ".join(word or "''" for word in words)
    ask = (
        f"source {script}; COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1};"
        f"$(complete -p run.sh | grep -o '_shtab[a-z_]*') run.sh '{words[-1]}' '{words[-2]}';"
        'echo "${COMPREPLY[@]}"'
    )
    shown = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, env=os.environ)
    assert set(shown.stdout.split()) == expected, shown.stderr


def test_completion_for_zsh() -> None:
    shown = python("app", "completion", "zsh").stdout
    assert shown.startswith("#compdef run.sh") and "--warmup-epochs" in shown
