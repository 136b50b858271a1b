"""`python -m app COMMAND OPTIONS`: the table of commands. Imports only what the command needs."""

from __future__ import annotations

import atexit
import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from app.cluster.environment import launcher_rank
from app.recipe.errors import DONE, EXIT_CODES, FAILED, Lost, UserError

# name -> what it does; the code is in app/commands/NAME.py
COMMANDS = {
    "train": "train a network with the paper's method (the default)",
    "prepare-imagenet": "unpack ImageNet's archives into the folder that training reads",
    "check-data": "decode every image of a folder once and say what is wrong",
    "plan": "k, n, kn, rates, memory and hours of a recipe, before it is run",
    "audit": "what of the paper a recipe or run follows, and where it deviates",
    "evaluate": "a trained network on all validation images: errors, classes, confusion",
    "predict": "the likeliest classes of image files",
    "export": "a trained network for other programs: state_dict, safetensors, ONNX, detectron2",
    "reproduce": "a table or figure of the paper trained again, ours beside the paper's",
    "report": "runs side by side on one page",
    "benchmark": "where a step's time goes, what the loader gives, what an allreduce costs",
    "scaling": "images/s and efficiency on 1, 2, 4, ... processes, beside what plan says",
    "doctor": "look for what would stop or slow a run on its hosts",
    "board": "show the curves of runs in TensorBoard",
    "completion": "what bash and zsh need to complete these commands and their options",
}

HELP = """usage: ./run.sh [LAUNCH OPTIONS] COMMAND [OPTIONS]

commands:
{commands}

./run.sh COMMAND --help shows a command's options, ./run.sh --help also those of launching.

{exit_codes}"""


def help_text() -> str:
    """All commands."""
    return HELP.format(
        commands="\n".join(f"  {name:16} {text}" for name, text in COMMANDS.items()), exit_codes=EXIT_CODES
    )


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
    module.parse(argv[1:])


def main(argv: Sequence[str]) -> int:
    """Runs a command and returns its exit code."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(help_text(), end="")
        return DONE
    try:
        importlib.import_module(module_of(argv[0])).main(argv[1:])
    except UserError as error:
        from app.cluster.failure import leave, leave_silently

        if error.everywhere and launcher_rank() != 0:
            leave_silently(error.exit_code)
        leave(error.exit_code, str(error), lost=isinstance(error, Lost))
    except Exception as error:
        from app.cluster.failure import leave

        where = "".join(f": {note}" for note in getattr(error, "__notes__", []))
        leave(FAILED, f"{type(error).__name__}: {error}{where}", traceback.format_exc())
    return DONE


def end(code: int) -> NoReturn:
    """Ends the process after its exit handlers, MPI's among them, without taking the interpreter apart.

    Threads of torch and Horovod that want the interpreter then would abort the process instead of ending it.
    """
    atexit._run_exitfuncs()
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi and mpi.Is_initialized() and not mpi.Is_finalized():
        mpi.Finalize()  # mpi4py would do so while the interpreter is taken apart
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    end(main(sys.argv[1:]))
