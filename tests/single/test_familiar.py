"""The message about an option of another program names the option of this program that does the same."""

import sys

import pytest

from app.base.errors import UserError
from app.commands import COMMANDS, check
from app.recipe.familiar import DISTRIBUTED
from tests.support.programs import run


@pytest.mark.parametrize(
    ("words", "advice"),  # the command is `train` if none is given
    [
        (["--lr", "0.1"], "--reference-lr"),
        (["--batch-size", "32"], "--minibatch"),
        (["--workers", "4"], "--loader-processes"),
        (["--gpus", "2"], "`./run.sh -np 8 train`"),
        (["--wd", "0"], "--weight-decay"),
        (["--amp"], "--precision bf16"),
        (["--pretrained"], "use --init, a file of weights or a run"),
        (["-np", "2"], "before the command, as in `./run.sh -np ... train`"),
        (["--dry-run"], "before the command, as in `./run.sh --dry-run train`"),
        (["evaluate", "run", "--batch-size", "32"], "leave it out, because evaluate has no such option"),
        (["evaluate", "run", "--workers", "4"], "use --loader-processes"),
        (["evaluate", "run", "--gpus", "4"], "use -np before the command, as in `./run.sh -np 8 evaluate`"),
        (["check-data", "/data", "--workers", "4"], "use --processes, the processes that decode images"),
        (["check-data", "/data", "-np", "4"], "use --processes, which `./run.sh check-data --help` explains"),
        (["check-data", "/data", "-H", "a:1"], "leave it out, because check-data is a single process"),
        (["pack", "/data", "/out", "-j", "4"], "use --processes, the processes that decode images"),
        (["scaling", "--batch-size", "32"], "use --per-worker, the images of a process"),
        (["scaling", "-np", "4"], "use --np, which `./run.sh scaling --help` explains"),
        (["scaling", "--hostfile", "hosts"], "give it in --launch, as in `./run.sh scaling --launch '--hostfile ...'`"),
        (["reproduce", "table-1", "--gpus", "4"], "give it in --launch, as in `./run.sh reproduce --launch '-np ...'`"),
        (["plan", "-np", "4"], "leave it out, because plan is a single process"),
    ],
)
def test_names_of_other_programs_lead_to_ours(words: list[str], advice: str) -> None:
    with pytest.raises(UserError) as caught:
        check(words if words[0] in COMMANDS else ["train", *words])
    assert advice in str(caught.value)


def test_the_commands_for_which_launch_options_are() -> None:
    """doctor is a single process that reads the launch options itself."""
    assert {*DISTRIBUTED} == {name for name, command in COMMANDS.items() if command.distributed} | {"doctor"}


@pytest.mark.parametrize("module", ["app", "app.start"])
def test_help_and_version(module: str) -> None:
    def shown(*words: str) -> str:
        return run(sys.executable, "-m", module, *words).stdout

    assert shown("--version") == shown("version")
    assert "horovod 0.28.1" in shown("--version") and "commit " in shown("--version")
    assert "prepare-imagenet" in shown("help") and "prepare-imagenet" in shown("--help")


def test_an_error_is_one_line_whatever_it_repeats() -> None:
    assert str(UserError("no class a\nb \x1b[31mred caf\udce9 caf\u00e9")) == (
        "no class a\\nb \\x1b[31mred caf\\udce9 caf\u00e9"
    )


@pytest.mark.parametrize("command", [["scaling"], ["reproduce", "table-1"]])
def test_launch_options_with_an_open_quotation_mark(command: list[str]) -> None:
    with pytest.raises(UserError, match="--launch -H 'a:1: no closing quotation; close it"):
        check([*command, "--launch", "-H 'a:1"])


def test_a_path_that_the_system_refuses() -> None:
    with pytest.raises(UserError, match="File name too long; give another path"):
        check(["audit", "9" * 5000])
