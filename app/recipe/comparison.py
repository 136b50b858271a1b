"""Find out whether runs with two configs train the same network, with the same weights."""

from __future__ import annotations

from typing import Any

from app.base.errors import UserError
from app.recipe.config import Config, flag, option_fields
from app.recipe.data_size import image_size


def computed_fields(config: Config) -> dict[str, Any]:
    """Return the fields that decide what is computed, with their values.

    An empty `decay_epochs` or an `image_size` of 0 is replaced by the value that the run uses. Config files of earlier
    versions contain this value instead of () or 0, and both forms must count as equal.
    """
    values = {f.name: getattr(config, f.name) for f in option_fields() if not f.metadata["free"]}
    return values | {"decay_epochs": config.decays, "image_size": image_size(config)}


def differences(old: Config, new: Config) -> dict[str, str]:
    """Return the fields that decide what is computed and that differ, each with a text that contains both values."""
    before, now = computed_fields(old), computed_fields(new)
    return {
        name: f"{flag(name)} was {before[name]!r}, now {now[name]!r}"
        for name in before
        # The default of `decay_epochs` follows from `epochs`. If only `epochs` was changed, name only `epochs`.
        if before[name] != now[name] and getattr(old, name) != getattr(new, name)
    }


def check_same_recipe(old: Config, new: Config, what: str) -> None:
    """Raise UserError if a run with the config `old` must not be continued with the config `new`.

    The message names the options that differ, and the option that allows the change.

    Args:
        old: The config of the run or checkpoint.
        new: The config of the command line. Its `allow_change` lists the fields that may differ.
        what: The name of the run or checkpoint, for the message.
    """
    found = {name: text for name, text in differences(old, new).items() if name not in new.allow_change}
    if found:
        raise UserError(
            f"{what} is of another recipe: {'; '.join(found.values())}"
            f" (to continue anyway: --allow-change {','.join(sorted({*found, *new.allow_change}))})"
        )
