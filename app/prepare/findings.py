"""The kinds of faults that check-data looks for, and its report as text and JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import NamedTuple

from app.recipe import paper

SMALLEST_SIDE = 32  # the side in pixels below which an image is reported as small
IMAGENET = {"classes": paper.CLASSES, "train": paper.TRAINING_IMAGES, "val": paper.VALIDATION_IMAGES}
SHOWN = 5  # the largest number of findings of a kind that the report shows as text

# The kinds of faults. Each has a bool, which is True if a training run stops at such a fault, and a description.
KINDS = {
    "layout": (True, "train/ or val/ does not exist or has no image"),
    "missing-class": (True, "the class is only in one of train/ and val/"),
    "unlistable": (True, "a folder that cannot be read, or something with an image's name that is not a file"),
    "empty-class": (True, "a folder without images"),
    "unreadable": (True, "the file cannot be read, or it is not a JPEG or PNG"),
    "truncated": (True, "the image cannot be decoded completely"),
    "not-rgb": (False, "grey, palette, CMYK, transparent or 16 bit; training converts it"),
    "wrong-name": (
        False,
        "a PNG file with the suffix of a JPEG file, or the reverse; training decodes it by its content",
    ),
    "broken-exif": (False, "the EXIF data have a fault; training ignores them"),
    "small": (False, f"a side is below {SMALLEST_SIDE} pixels; training enlarges the image"),
    "duplicate": (False, "the same bytes are in train/ and val/, which makes the validation error too small"),
    "left-out": (False, "training does not read it: it is not a .jpg, .jpeg or .png in the folder of a class"),
    "counts": (False, "the number is not that of ImageNet"),
}


class DataFinding(NamedTuple):
    """A fault of one file or folder.

    Attributes:
        kind: A key of KINDS.
        path: The path of the file or folder, relative to the folder of the data set.
        detail: The fault, as text.
    """

    kind: str
    path: str
    detail: str

    @property
    def fatal(self) -> bool:
        return KINDS[self.kind][0]


@dataclass(frozen=True)
class Report:
    """The result of check-data.

    Attributes:
        folder: The folder of the data set.
        images: The number of images of each split.
        classes: The number of classes in train/.
        findings: The faults.
    """

    folder: str
    images: dict[str, int]
    classes: int
    findings: tuple[DataFinding, ...]

    @property
    def fatal(self) -> list[DataFinding]:
        return [finding for finding in self.findings if finding.fatal]

    @property
    def to_skip(self) -> list[str]:
        """The paths of the images at which a run would stop, in the order of the data set."""
        return [finding.path for finding in self.fatal if finding.kind in ("unreadable", "truncated")]


def describe(report: Report) -> list[str]:
    """Return the report as lines of text. For each kind of fault, only the first paths are shown."""
    train, validation = report.images["train"], report.images["val"]
    lines = [f"{report.folder}: {train:,} training and {validation:,} validation images of {report.classes:,} classes"]
    for fatal, title in ((True, "a training run would stop at:"), (False, "a training run continues with:")):
        kinds = [kind for kind in KINDS if KINDS[kind][0] is fatal and any(f.kind == kind for f in report.findings)]
        lines += [title] * bool(kinds)
        for kind in kinds:
            found = [finding for finding in report.findings if finding.kind == kind]
            lines.append(f"  {kind}: {len(found):,} ({KINDS[kind][1]})")
            lines += [f"    {_printable(finding.path)}: {finding.detail}" for finding in found[:SHOWN]]
            lines += [f"    and {len(found) - SHOWN:,} more; --json lists all"] * (len(found) > SHOWN)
    return lines


def to_json(report: Report) -> str:
    """Return the report with all findings as JSON."""
    kinds = {kind: sum(finding.kind == kind for finding in report.findings) for kind in KINDS}
    findings = [{**finding._asdict(), "fatal": finding.fatal} for finding in report.findings]
    values = {"folder": report.folder, "images": report.images, "classes": report.classes}
    return json.dumps({**values, "trainable": not report.fatal, "counts": kinds, "findings": findings}, indent=1)


def _printable(path: str) -> str:
    """Return a path as text on one line. It is quoted if it contains line breaks or invalid bytes."""
    return path if path.isprintable() else repr(path)
