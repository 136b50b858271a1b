"""The table of commands. The code of each is in app/commands/NAME.py, and is imported only when it runs."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Sequence

from app.base.errors import UserError
from app.base.program import Command

COMMANDS = {
    "train": Command("train a network with the paper's method (the default)", distributed=True),
    "prepare-imagenet": Command("unpack ImageNet's archives into the folder that training reads"),
    "check-data": Command("decode every image of a folder once and say what is wrong"),
    "plan": Command("k, n, kn, rates, memory and hours of a recipe, before it is run"),
    "audit": Command("what of the paper a recipe or run follows, and where it deviates"),
    "evaluate": Command("a trained network on all validation images: errors, classes, confusion", distributed=True),
    "predict": Command("the likeliest classes of image files"),
    "export": Command("a trained network for other programs: state_dict, safetensors, ONNX, detectron2"),
    "reproduce": Command("a table or figure of the paper trained again, ours next to the paper's"),
    "report": Command("runs side by side on one page"),
    "benchmark": Command("where a step's time goes, what the loader gives, what an allreduce costs", distributed=True),
    "scaling": Command("images/s and efficiency on 1, 2, 4, ... processes, next to what plan says"),
    "doctor": Command("look for what would stop or slow a run on its hosts"),
    "board": Command("show the curves of runs in TensorBoard"),
    "completion": Command("what bash and zsh need to complete these commands and their options"),
}


def module_of(command: str) -> str:
    """The module of a command. Raises UserError with the nearest name."""
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        raise UserError(f"no command {command!r}: {hint}")
    return "app.commands." + command.replace("-", "_")


def check(argv: Sequence[str]) -> None:
    """Reads a command line as its command would, starting nothing. Raises UserError; `--help` prints and exits."""
    module = importlib.import_module(module_of(argv[0]))
    try:
        module.parse(argv[1:])
    except OSError as error:  # of a path that the system refuses to look at: too long, a loop of links
        raise UserError(f"{str(error.filename)[:60]}: {error.strerror}; give another path") from None
    except ValueError:  # of a path with a null byte
        raise UserError("a path holds a null byte: give another path") from None
