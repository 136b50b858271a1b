"""Decides whether two configs compute the same network."""

from __future__ import annotations

from typing import Any

from app.base.errors import UserError
from app.recipe.config import Config, flag, option_fields
from app.recipe.data_size import image_size


def computed_fields(config: Config) -> dict[str, Any]:
    """Return the fields that decide what is computed. Defaults that follow from other fields have their values here.

    Config files of earlier versions contain these values, so that both forms must be equal.
    """
    values = {f.name: getattr(config, f.name) for f in option_fields() if not f.metadata["free"]}
    return values | {"decay_epochs": config.decays, "image_size": image_size(config)}


def differences(old: Config, new: Config) -> dict[str, str]:
    """Return the fields that differ and change what is computed, each with text about its option and both values."""
    before, now = computed_fields(old), computed_fields(new)
    return {
        name: f"{flag(name)} was {before[name]!r}, now {now[name]!r}"
        for name in before
        # A default may follow from another field: `decay_epochs` follows from `epochs`. Only that field is named then.
        if before[name] != now[name] and getattr(old, name) != getattr(new, name)
    }


def check_same_recipe(old: Config, new: Config, what: str) -> None:
    """Raise UserError if `new` would not continue the run of `old`.

    The message names the options that differ and the option that allows the change.
    """
    found = {name: text for name, text in differences(old, new).items() if name not in new.allow_change}
    if found:
        raise UserError(
            f"{what} is of another recipe: {'; '.join(found.values())}"
            f" (to go on all the same: --allow-change {','.join(sorted({*found, *new.allow_change}))})"
        )
