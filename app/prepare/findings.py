"""What check-data looks for, and the text of its report."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import NamedTuple

from app.recipe import paper

SMALLEST_SIDE = 32
IMAGENET = {"classes": paper.CLASSES, "train": paper.TRAINING_IMAGES, "val": paper.VALIDATION_IMAGES}
SHOWN = 5  # findings of a kind in the text

# kind -> (whether a training run stops on it, what it is)
KINDS = {
    "layout": (True, "train/ or val/ is not there, or has no image"),
    "missing-class": (True, "in one of train/ and val/ only"),
    "unlistable": (True, "a folder that cannot be read, or no file under an image's name"),
    "empty-class": (True, "a folder without images"),
    "unreadable": (True, "no JPEG or PNG, or the file cannot be read"),
    "truncated": (True, "not decodable to its end"),
    "not-rgb": (False, "grey, palette, CMYK, transparent or 16 bit; training converts it"),
    "wrong-name": (False, "a PNG named as JPEG, or the reverse; training goes by the content"),
    "broken-exif": (False, "training ignores EXIF"),
    "small": (False, f"a side below {SMALLEST_SIDE} pixels; training enlarges it"),
    "duplicate": (False, "the same bytes in train/ and val/: the validation error is too good"),
    "left-out": (False, "not read by training: no .jpg, .jpeg or .png in a class folder"),
    "counts": (False, "not ImageNet's number"),
}


class DataFinding(NamedTuple):
    """path: relative to the folder, with `/`."""

    kind: str
    path: str
    detail: str

    @property
    def fatal(self) -> bool:
        return KINDS[self.kind][0]


@dataclass(frozen=True)
class Report:
    """images: per split; classes: of train/."""

    folder: str
    images: dict[str, int]
    classes: int
    findings: tuple[DataFinding, ...]

    @property
    def fatal(self) -> list[DataFinding]:
        return [finding for finding in self.findings if finding.fatal]

    @property
    def to_skip(self) -> list[str]:
        """The images that a run would stop on, in the folder's order."""
        return [finding.path for finding in self.fatal if finding.kind in ("unreadable", "truncated")]


def describe(report: Report) -> list[str]:
    """The report in lines for people: each kind found, with its first paths."""
    train, validation = report.images["train"], report.images["val"]
    lines = [f"{report.folder}: {train:,} training and {validation:,} validation images of {report.classes:,} classes"]
    for fatal, title in ((True, "a training run would stop on:"), (False, "training goes on with these:")):
        kinds = [kind for kind in KINDS if KINDS[kind][0] is fatal and any(f.kind == kind for f in report.findings)]
        lines += [title] * bool(kinds)
        for kind in kinds:
            found = [finding for finding in report.findings if finding.kind == kind]
            lines.append(f"  {kind}: {len(found):,} ({KINDS[kind][1]})")
            lines += [f"    {_printable(finding.path)}: {finding.detail}" for finding in found[:SHOWN]]
            lines += [f"    and {len(found) - SHOWN:,} more; --json lists all"] * (len(found) > SHOWN)
    return lines


def to_json(report: Report) -> str:
    """The report with all its findings."""
    kinds = {kind: sum(finding.kind == kind for finding in report.findings) for kind in KINDS}
    findings = [{**finding._asdict(), "fatal": finding.fatal} for finding in report.findings]
    values = {"folder": report.folder, "images": report.images, "classes": report.classes}
    return json.dumps({**values, "trainable": not report.fatal, "counts": kinds, "findings": findings}, indent=1)


def _printable(path: str) -> str:
    """A path may hold line ends and bytes that are no text."""
    return path if path.isprintable() else repr(path)
