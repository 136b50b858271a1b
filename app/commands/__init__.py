"""The table of commands. Each command has a module of the same name, which is imported only when it is needed."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from app.base.errors import UserError
from app.base.program import Command

COMMANDS = {
    "train": Command("train a network with the paper's method (the default)", distributed=True),
    "prepare-imagenet": Command("unpack ImageNet's archives into a folder that training reads", folder="data"),
    "pack": Command("write the images of a folder into .tar archives", folder="data"),
    "check-data": Command("decode every image of a folder once and report faults", folder="data"),
    "plan": Command("show k, n, kn, learning rates, memory and hours of a recipe before it is trained"),
    "audit": Command("show which rules of the paper a recipe or run follows, and where it deviates"),
    "evaluate": Command("evaluate a trained network on all validation images", distributed=True),
    "predict": Command("show the most probable classes of image files"),
    "export": Command("write a trained network for other programs: state_dict, safetensors, ONNX, detectron2"),
    "reproduce": Command("train the networks of a table or figure of the paper and compare them with the paper's"),
    "report": Command("compare runs on one page"),
    "benchmark": Command("measure the parts of a step, the loader and the allreduce", distributed=True),
    "scaling": Command("measure images/s on 1, 2, 4, ... processes and compare them with the forecast of plan"),
    "doctor": Command("look for faults of the hosts that would stop or slow a run"),
    "board": Command("show the curves of runs in TensorBoard"),
    "completion": Command("print a script for bash or zsh that completes commands and options"),
}


def module_of(command: str) -> str:
    """Return the name of a command's module. Raises UserError with the most similar command if there is none."""
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        raise UserError(f"no command {command!r}: {hint}")
    folder = COMMANDS[command].folder
    return ".".join(["app.commands", *([folder] if folder else []), command.replace("-", "_")])


def check(argv: Sequence[str]) -> None:
    """Parse a command line as its command does, without starting anything.

    `--help` prints the help and exits. Raises UserError if an argument is wrong.
    """
    with _bad_paths():
        importlib.import_module(module_of(argv[0])).parse(argv[1:])


def check_start(argv: Sequence[str], processes: int, writes: bool) -> None:
    """Check what the processes of a command would check at their start, as far as possible before they are started.

    This function is called on a host where processes will run. The module of a command can have two functions for this:
    `check_start` checks the data, and `check_output` checks the files that rank 0 will write.

    Args:
        argv: The command and its options.
        processes: The number of processes.
        writes: Whether rank 0 will run on this host. If not, `check_output` is not called.

    Raises:
        UserError: The processes would fail at their start.
    """
    module = importlib.import_module(module_of(argv[0]))
    with _bad_paths():
        if hasattr(module, "check_start"):
            module.check_start(module.parse(argv[1:]), processes)
        if writes and hasattr(module, "check_output"):
            module.check_output(module.parse(argv[1:]))


@contextmanager
def _bad_paths() -> Iterator[None]:
    """Raise UserError if the operating system or Python refuses a path of the command line."""
    try:
        yield
    except OSError as error:  # for example a path that is too long, a loop of links, or a folder of another user
        raise UserError(f"{str(error.filename)[:60]}: {error.strerror}; give another path") from None
    except ValueError as error:
        if "null byte" not in str(error):
            raise
        raise UserError("a path contains a null byte: give another path") from None
