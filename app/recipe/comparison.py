"""Whether two configs compute the same network."""

from __future__ import annotations

from typing import Any

from app.base.errors import UserError
from app.recipe.config import Config, flag, option_fields
from app.recipe.data_size import image_size


def meant(config: Config) -> dict[str, Any]:
    """Return the fields that say what is computed. A default that follows from other fields has its value here.

    Config files of earlier versions hold the value itself, so that the two forms must compare as equal.
    """
    values = {f.name: getattr(config, f.name) for f in option_fields() if not f.metadata["free"]}
    return values | {"decay_epochs": config.decays, "image_size": image_size(config)}


def differences(old: Config, new: Config) -> dict[str, str]:
    """Return the fields that change what is computed and differ, each with its option and both values in words."""
    before, now = meant(old), meant(new)
    return {
        name: f"{flag(name)} was {before[name]!r}, now {now[name]!r}"
        for name in before
        # Equal defaults of other meaning follow from a field that is named itself, as decays from epochs.
        if before[name] != now[name] and getattr(old, name) != getattr(new, name)
    }


def check_same_recipe(old: Config, new: Config, what: str) -> None:
    """Raise UserError, with the options and what allows it, where `new` would not continue the run of `old`."""
    found = {name: text for name, text in differences(old, new).items() if name not in new.allow_change}
    if found:
        raise UserError(
            f"{what} is of another recipe: {'; '.join(found.values())}"
            f" (to go on all the same: --allow-change {','.join(sorted({*found, *new.allow_change}))})"
        )
