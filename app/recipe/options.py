"""The command line options of a run. They are generated from the fields of `Config`."""

from __future__ import annotations

import argparse
import difflib
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

from app.base.errors import UserError
from app.base.text import nearest
from app.recipe.config import Config, check_used, default_of, flag, from_dict, option_fields, read_config, unused
from app.recipe.familiar import familiar
from app.recipe.presets import PRESETS, default_recipe, preset


class Parser(argparse.ArgumentParser):
    """An argument parser that raises UserError for a wrong argument. argparse would print its usage and exit."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise UserError(message)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Raise UserError if the value is not one of the choices. The message suggests the most similar choice."""
        if action.choices is not None and value not in action.choices:
            name = action.option_strings[-1] if action.option_strings else action.dest
            raise UserError(f"{name} is {value}: {nearest(value, action.choices)}")

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Return the values of a command line.

        Raises:
            UserError: An option or a value is wrong. For an unknown option the message suggests a similar one.
        """
        values, unknown = self.parse_known_args(argv)
        if unknown:
            name = unknown[0].split("=")[0]
            if advice := familiar(name, self.prog, self._option_string_actions):
                raise UserError(f"unknown option {name}: {advice}")
            near = difflib.get_close_matches(name, self._option_string_actions, 1)
            hint = f"did you mean {near[0]}?" if near else f"see `{self.prog} --help`"
            raise UserError(f"unknown option {name}: {hint}")
        return values


FIRST = (
    "data",
    "model",
    "epochs",
    "minibatch",
    "reference_lr",
    "output",
)  # `--help` shows only these options, and `--help-all` shows all
FEW = 8  # the largest number of choices that the help shows in braces; more choices are only in the help text
FIRST_TITLE = "the options that most runs need"


class ShortHelp(argparse.Action):
    """Print the short help of a command that makes a run: the config options in FIRST and the command's own options."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        for action in parser._actions:
            if action.dest in Config.__dataclass_fields__ and action.dest not in FIRST:
                action.help = argparse.SUPPRESS
        parser.print_help()
        print(f"\n`{parser.prog} --help-all` shows all options.")
        parser.exit()


class LongHelp(argparse.Action):
    """Print the help with all options."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        parser.print_help()
        parser.exit()


def add_config_options(parser: argparse.ArgumentParser, groups: Sequence[str] = ()) -> None:
    """Add an option for each field of `Config` to a parser.

    The options in FIRST come first in the help. The parsed values contain only the options that were given.

    Args:
        parser: The parser, which is changed.
        groups: The groups whose fields are added. If it is empty, all fields are added.
    """
    types = get_type_hints(Config)
    made: dict[str, Any] = {FIRST_TITLE: parser.add_argument_group(FIRST_TITLE)}
    parser._action_groups.insert(0, parser._action_groups.pop())
    for f in sorted(option_fields(), key=lambda f: FIRST.index(f.name) if f.name in FIRST else len(FIRST)):
        name = f.metadata["group"]
        if groups and name not in groups:
            continue
        name = FIRST_TITLE if f.name in FIRST else name
        group = made.setdefault(name, None) or parser.add_argument_group(name)
        made[name] = group
        text = f.metadata["text"] + (f" (default: {default_of(f.name)})" if default_of(f.name) not in ("", ()) else "")
        common: dict[str, Any] = {"dest": f.name, "default": argparse.SUPPRESS, "help": text.replace("%", "%%")}
        if types[f.name] is bool:
            group.add_argument(flag(f.name), action=argparse.BooleanOptionalAction, **common)
        elif types[f.name] in (int, float, str):
            few = 0 < len(f.metadata["choices"]) <= FEW
            metavar = None if few else f.name.split("_")[-1].upper()
            group.add_argument(
                flag(f.name), type=types[f.name], choices=f.metadata["choices"] or None, metavar=metavar, **common
            )
        else:
            parse = names if types[f.name] == tuple[str, ...] else numbers
            group.add_argument(flag(f.name), type=parse, metavar="A,B,...", **common)


def numbers(text: str) -> tuple[float, ...]:
    """Parse a list of numbers, such as `30,60,80`."""
    return tuple(float(part) for part in text.split(","))


def names(text: str) -> tuple[str, ...]:
    """Parse a list of options, such as `epochs,--reference-lr`, and return the names of their fields."""
    return tuple(part.strip().lstrip("-").replace("-", "_") for part in text.split(",") if part.strip())


def launch_options(text: str) -> list[str]:
    """Return the words of --launch, such as `-np 8 -H a:8`. Raises UserError if a quotation mark is not closed."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"--launch {text}: {str(error).lower()}; close it, or leave it out") from None


def run_parser(prog: str, description: str, example: str, groups: Sequence[str] = ()) -> Parser:
    """Return the parser of a command that has the options of a run.

    Args:
        prog: The start of the command line, `./run.sh COMMAND`.
        description: What the command does.
        example: An example of its use, for the help.
        groups: The groups of options that the command has. If it is empty, the command has all groups.
    """
    names = "\n".join(f"  {name:26} {text}" for name, (text, _) in PRESETS.items())
    parser = Parser(
        prog=prog, description=description, epilog=f"recipes:\n{names}\n\nexample: {example}", add_help=False
    )
    shows: dict[str, Any] = {"nargs": 0, "dest": argparse.SUPPRESS, "default": argparse.SUPPRESS}
    parser.add_argument("-h", "--help", action=ShortHelp, help="show the most important options", **shows)
    parser.add_argument("--help-all", action=LongHelp, help="show all options", **shows)
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="config.json of a run whose options are used; options on the command line override them",
    )
    add_config_options(parser, groups)
    return parser


def resolve(given: dict[str, Any], needs_data: bool = True) -> Config:
    """Return the config for a command line: a preset or a config file, overridden by the options that were given.

    Args:
        given: The values of the options that were given. "config" is the path of a config file, or None.
        needs_data: True if the command reads the data. In this case, a recipe for ImageNet needs `--data FOLDER`.

    Raises:
        UserError: A value is wrong, the config file cannot be read, or the data is missing.
    """
    given = dict(given)
    base = given.pop("config", None)
    if base:
        start = _of_file(read_config(Path(base)))
    elif "recipe" in given:
        start = preset(given["recipe"])
    elif "data" in given:
        start = preset(default_recipe(given["data"]))
    else:
        start = preset("digits")
    config = from_dict({**start, **given})
    check_used(config, given)
    named = base or "data" in given  # the user has named the data, so "imagenet" is a folder with this name
    if needs_data and config.data == "imagenet" and not named:
        raise UserError(f"recipe {config.recipe} needs ImageNet: give --data FOLDER, which contains train/ and val/")
    return config


def _of_file(config: Config) -> dict[str, Any]:
    """Return the options of a config file that a new run uses."""
    # Config files of earlier versions contain the default decay_epochs for their own `epochs`. A new run can
    # have other `epochs`, so its default is computed again.
    default = replace(config, decay_epochs=())
    kept = default if config.decays == default.decays else config
    return {**vars(kept), "output": "", "resume": "", "allow_change": ()}


def arguments(config: Config) -> list[str]:
    """Return the command line options that give a config: --recipe, and the options that differ from this preset.

    Options that have no effect are left out, because `resolve` refuses them.
    """
    start = from_dict(preset(config.recipe))
    found, without = ["--recipe", config.recipe], unused(config)
    for f in option_fields():
        value = getattr(config, f.name)
        if f.name == "recipe" or f.name in without or value == getattr(start, f.name):
            continue
        if isinstance(value, bool):
            found.append(flag(f.name) if value else flag(f.name).replace("--", "--no-", 1))
        else:
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            found += [f"{flag(f.name)}={text}"] if text.startswith("-") else [flag(f.name), text]
    return found
