"""Make the page of the command `report`: an HTML file that contains its pictures and has no scripts or links."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from html import escape
from typing import Any

from matplotlib.figure import Figure

from app.recipe.audit import audit
from app.recipe.comparison import computed_fields, differences
from app.recipe.config import Config, flag, from_dict
from app.recipe.plan import describe
from app.recipe.presets import PRESETS, preset
from app.runs.figures import Curve, curves_figure
from app.runs.record import Record

DERIVED = ("decay_epochs", "image_size")  # options whose default values follow from other options
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2em auto; padding: 0 1em; color: #222; }
h1 { font-size: 1.5em; } h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; font-size: 13px; } tr + tr td { border-top: 1px solid #eee; }
th, td { padding: 3px 8px; text-align: left; vertical-align: top; } th { background: #f2f2f2; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(480px, 1fr)); gap: 12px; }
.pictures img { width: 100%; } .scroll { overflow-x: auto; }
summary { cursor: pointer; margin: .6em 0; font-weight: 600; }
.deviates { color: #b00; } .followed { color: #070; }
"""


def pictures(records: Sequence[Record]) -> dict[str, Figure]:
    """Return the figures of the page by their names."""
    errors = [
        curve
        for record in records
        for curve in (
            Curve(record.name, *percent(*record.curve("evaluations", "top1_error"))),
            Curve(record.name, *percent(*record.curve("evaluations", "train_top1_error")), dashed=True),
        )
    ]
    losses = [
        curve
        for record in records
        for curve in (
            Curve(record.name, *record.curve("evaluations", "loss")),
            Curve(record.name, *record.curve("evaluations", "train_loss"), dashed=True),
        )
    ]
    rates = [Curve(record.name, *record.curve("train", "lr")) for record in records]
    speeds = [Curve(record.name, *record.curve("train", "images_per_second")) for record in records]
    return {
        "error": curves_figure("top-1 error: validation, training dashed", "error (%)", errors),
        "loss": curves_figure("loss: validation, training dashed", "loss", losses),
        "rate": curves_figure("learning rate", "rate", rates, log_scale=True),
        "speed": curves_figure("speed", "images/s", speeds),
    }


def percent(x: list[float], fractions: list[float]) -> tuple[list[float], list[float]]:
    return x, [100 * value for value in fractions]


def page(records: Sequence[Record], drawn: Mapping[str, bytes]) -> str:
    """Return the HTML document.

    Args:
        records: The runs.
        drawn: The PNG files of the figures, by the names of the figures.
    """
    images = "".join(
        f'<img alt="{name}" src="data:image/png;base64,{base64.b64encode(content).decode()}">'
        for name, content in drawn.items()
    )
    title = ", ".join(record.name for record in records)
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f"{results(records)}<h2>Curves</h2><div class=pictures>{images}</div>"
        f"{''.join(map(section, records))}</body></html>\n"
    )


def results(records: Iterable[Record]) -> str:
    """Return the table of results, with a row for each run. For an unfinished run it shows the last evaluation."""
    rows = []
    for record in records:
        last = record.result or (record.evaluations[-1] if record.evaluations else {})
        plan, done = record.plan, len(record.evaluations)
        epochs = f"{plan.epochs}" if record.result else f"{done} of {plan.epochs}"
        row = {
            "run": record.name,
            "recipe": record.config.recipe,
            "network": record.config.model,
            "kn": f"{plan.minibatch:,}",
            "k x n": f"{plan.workers} x {plan.per_worker}",
            "processes": str(record.cluster["processes"]),
            "epochs": epochs,
            "top-1 error": fraction(last, "top1_error"),
            "median of 5": fraction(record.result, "median_top1_error"),
            "top-5 error": fraction(last, "top5_error"),
            "images/s": f"{last['images_per_second']:,.0f}" if last else "",
            "changed options": changed(record.config),
        }
        rows.append(row)
    return table(list(rows[0]), [list(row.values()) for row in rows])


def fraction(values: Mapping[str, Any], name: str) -> str:
    return f"{values[name]:.2%}" if name in values else ""


def changed(config: Config) -> str:
    """Return the options of a run, including the data set, that differ from the run's recipe.

    Options whose values only follow from other options are left out.
    """
    if config.recipe not in PRESETS:
        return ""
    recipe, new = from_dict(preset(config.recipe)), computed_fields(config)
    # Config files of earlier versions also contain default values that follow from other options. Such values are equal
    # to those in `following`, and are left out.
    following = computed_fields(replace(config, decay_epochs=(), image_size=0))
    names = ["data"] if config.data != recipe.data else []
    names += [name for name in differences(recipe, config) if name not in DERIVED or new[name] != following[name]]
    return " ".join(as_option(name, getattr(config, name)) for name in names)


def as_option(name: str, value: object) -> str:
    """Return a field and its value as they are given on the command line."""
    if isinstance(value, bool):
        return flag(name) if value else flag(name).replace("--", "--no-", 1)
    return f"{flag(name)} {written(value)}"


def written(value: object) -> str:
    """Return a value as it is written on the command line. The numbers of a tuple are rounded."""
    return ",".join(f"{each:.4g}" for each in value) if isinstance(value, tuple) else str(value)


def section(record: Record) -> str:
    """Return the part of the page about one run."""
    lines = [*describe(record.plan, record.config), f"hosts: {', '.join(dict.fromkeys(record.cluster['hosts']))}"]
    plan = "".join(f"<li>{escape(line)}</li>" for line in lines)
    findings = audit(record.config, record.plan.images)
    rows = [[f.status, f.section, f.name, f.paper, f.here] for f in findings]
    deviating = sum(f.status == "deviates" for f in findings)
    options = [[flag(name), written(value)] for name, value in asdict(record.config).items()]
    environment = [[name, shown(value)] for name, value in record.environment.items()]
    return (
        f"<h2>{escape(record.name)}</h2><ul>{plan}</ul>"
        + folded(f"Choices of the paper: {deviating} of {len(rows)} are not followed",
                 table(["", "section", "choice", "paper", "here"], rows))
        + folded("Options", table(["option", "value"], options))
        + (folded("Environment", table(["", ""], environment)) if environment else "")
    )  # fmt: skip


def shown(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name}: {item}" for name, item in value.items())
    if isinstance(value, list):
        return " ".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)


def folded(title: str, content: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return an HTML table.

    The content of cells is escaped, but their line breaks are kept. A row whose first cell is "deviates" or "followed"
    (a status of the audit) has the colour of this status.
    """
    body = []
    for row in rows:
        cells = "".join(f"<td>{escape(cell).replace(chr(10), '<br>')}</td>" for cell in row)
        colour = f' class="{row[0]}"' if row[0] in ("deviates", "followed") else ""
        body.append(f"<tr{colour}>{cells}</tr>")
    titles = "".join(f"<th>{escape(cell)}</th>" for cell in head) if any(head) else ""
    return f"<div class=scroll><table><tr>{titles}</tr>{''.join(body)}</table></div>"
