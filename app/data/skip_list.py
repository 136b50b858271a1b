"""The skip list, a text file that names the images that --skip-list leaves out. check-data writes such a file.

Each line is the path of an image relative to the folder of the data set.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from app.base.errors import UserError
from app.base.text import some
from app.storage.listing import Index

HEADER = "# Images that --skip-list leaves out, relative to the folder of the data."


def write_skip_list(path: str, images: Sequence[str] | None) -> None:
    """Write the paths `images` to the skip list `path`. If `images` is None, only check that it can be written.

    Raises:
        UserError: The file cannot be written.
    """
    try:
        if images is None:
            return Path(path).open("ab").close()
        Path(path).write_bytes(b"".join(os.fsencode(line) + b"\n" for line in (HEADER, *images)))
    except OSError as error:
        raise UserError(f"cannot write the skip list {path}: {error.strerror}; name another file") from None


def read_skip_list(path: str) -> list[bytes]:
    """Return the paths in a skip list. Raises UserError if the file cannot be read."""
    try:
        lines = [line.strip() for line in Path(path).read_bytes().splitlines()]
    except OSError as error:
        raise UserError(
            f"cannot read --skip-list {path}: {error.strerror}; check-data --skip-list writes one"
        ) from None
    return [line for line in lines if line and not line.startswith(b"#")]


def leave_out(index: Index, path: str) -> tuple[Index, int]:
    """Leave the images of a skip list out of an index. The fingerprint of the result depends on the list.

    Args:
        index: The images of the data set.
        path: The skip list.

    Returns:
        The remaining images, and the number of images that were left out.

    Raises:
        UserError: The list names images that are not in the index. Or it leaves no training image of a class, or no
            validation image.
    """
    skipped = set(read_skip_list(path))
    if not skipped:
        return index, 0
    splits = {b"train": index.train, b"val": index.validation}
    kept = {
        split: np.array([split + b"/" + name not in skipped for name in files.names.tolist()], bool)
        for split, files in splits.items()
    }
    dropped = sum(int((~keep).sum()) for keep in kept.values())
    if dropped < len(skipped):
        known = {split + b"/" + name for split, files in splits.items() for name in files.names.tolist()}
        missing = some([os.fsdecode(name) for name in sorted(skipped - known)])
        raise UserError(f"--skip-list {path} names images that are not there, {missing}: run check-data again")
    train, validation = (files.take(kept[split]) for split, files in splits.items())
    empty = sorted(set(range(len(index.classes))) - set(train.labels.tolist()))
    if empty or not len(validation):
        what = some([index.classes[label] for label in empty]) if empty else "the validation"
        raise UserError(f"--skip-list {path} leaves no image for {what}: replace the images instead")
    digest = hashlib.sha256(b"\0".join([index.fingerprint.encode(), *sorted(skipped)]))
    kept_index = replace(index, train=train, validation=validation, fingerprint=digest.hexdigest()[:16])
    return kept_index, dropped
