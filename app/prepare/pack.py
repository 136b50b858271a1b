"""Write the images of a folder or of archives as .tar shards, which training and WebDataset's loader can read.

A shard contains `SPLIT/CLASS/NAME.jpg`, followed by `SPLIT/CLASS/NAME.cls` with the number of the class. The images are
in random order, so that a program that reads a shard from its start gets images of all classes.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.base.errors import CorruptImage, UserError
from app.base.progress import Progress
from app.data.order import permutation
from app.prepare.journal import Journal
from app.prepare.output_folder import check_space, open_output
from app.prepare.parallel import in_parallel
from app.prepare.unpack import Shrink, shrink_image
from app.storage.files import Files
from app.storage.index import read_index
from app.storage.listing import Index
from app.storage.shards import CLASSES, key_of

SEED = 0  # the seed of the order of the images
SAMPLE = 1000  # the number of images whose sizes are read to estimate the necessary disk space
WRITE_SIZE = 2**21  # bytes; Linux reads a file faster from its page cache if the file was written in such large pieces
HEADERS = 3 * 512 + 1024  # the bytes that a shard needs for each image in addition to the image file


@dataclass(frozen=True)
class ShardTask:
    """A shard to write.

    Attributes:
        path: The path of the shard.
        split: The name of the split.
        files: The images in their order in the shard.
        labelled: Whether each image gets a label file.
        shrink: How to shrink large images, or None to keep all images as they are.
    """

    path: Path
    split: str
    files: Files
    labelled: bool
    shrink: Shrink | None


def pack(source: str, output: str, images: int, shrink: Shrink | None, processes: int) -> str:
    """Write shards into a folder, and return a line of text about the result.

    After an interruption, a call with the same arguments continues.

    Args:
        source: The folder with the images or archives.
        output: The folder to write to.
        images: The number of images in a shard.
        shrink: How to shrink large images, or None to keep all images as they are.
        processes: The number of processes that write shards.

    Raises:
        UserError: Training would refuse the source, the name of a class has a line break, the disk is too small, or the
            output folder has other content.
        CorruptImage: An image cannot be read, or cannot be decoded to make it smaller.
    """
    index = read_index(source)
    settings = {
        "fingerprint": index.fingerprint,
        "images": images,
        "shrink": shrink and [shrink.side, shrink.quality],
    }
    labelled = _can_be_labelled(index)
    folder = Path(output)
    try:
        with open_output(folder, "pack", settings, "from other images or with other options") as journal:
            _write_names(source, folder, index, labelled)
            tasks = _tasks(index, folder, images, labelled, shrink)
            _write_shards(tasks, folder, processes, journal)
    except OSError as error:
        where = error.filename or output
        raise UserError(
            f"{where}: {error.strerror}; correct this and run the same command again, which continues"
        ) from None
    _check_result(index, output, shrink)
    counts = f"{len(index.train):,} training and {len(index.validation):,} validation images"
    note = "" if labelled else "; without label files, because WebDataset would join images with the same key"
    return f"{output}: {counts} of {len(index.classes):,} classes in {len(tasks):,} archives{note}"


def _can_be_labelled(index: Index) -> bool:
    """Return whether a label file can be added for each image.

    WebDataset joins an image and a label file whose names are equal without the extension. So label files are possible
    only if the images of a split have different names without the extension.
    """
    for files in (index.train, index.validation):
        keys = Counter(key_of(os.fsdecode(name)) for name in files.names.tolist())
        if max(keys.values()) > 1:
            return False
    return True


def _write_names(source: str, output: Path, index: Index, labelled: bool) -> None:
    """Write the class names to classes.txt if `labelled`. Copy the source's classes.json, if it has one."""
    if labelled:
        broken = [name for name in index.classes if len(name.splitlines()) != 1]
        if broken:
            raise UserError(f"the class {broken[0]!r} of {source} has a line break in its name: rename it")
        (output / CLASSES).write_bytes(b"".join(os.fsencode(name) + b"\n" for name in index.classes))
    words = Path(source) / "classes.json"
    if words.is_file():
        shutil.copy(words, output / words.name)


def _tasks(index: Index, output: Path, images: int, labelled: bool, shrink: Shrink | None) -> list[ShardTask]:
    tasks = []
    for split, files in (("train", index.train), ("val", index.validation)):
        order = permutation(SEED, 0, len(files))
        for number, first in enumerate(range(0, len(files), images)):
            path = output / f"{split}-{number:05}.tar"
            tasks.append(ShardTask(path, split, files.take(order[first : first + images]), labelled, shrink))
    return tasks


def _write_shards(tasks: list[ShardTask], output: Path, processes: int, journal: Journal) -> None:
    done = {record["part"]: record["bytes"] for record in journal.records[1:]}
    left = [task for task in tasks if not _is_whole(task.path, done.get(task.path.name))]
    check_space(output, sum(map(_space, left)))
    total = sum(len(task.files) for task in tasks)
    results = in_parallel(write_shard, left, processes)
    with closing(results), Progress("pack", total, total - sum(len(task.files) for task in left)) as progress:
        for task, size in results:
            journal.append({"part": task.path.name, "bytes": size})
            progress.add(len(task.files))


def _is_whole(path: Path, size: int | None) -> bool:
    return path.is_file() and path.stat().st_size == size


def _space(task: ShardTask) -> float:
    """Return the size of a shard in bytes, estimated from the sizes of some of its images."""
    sample = range(0, len(task.files), max(1, len(task.files) // SAMPLE))
    size = float(np.mean([task.files.size(place) for place in sample])) * len(task.files)
    if task.shrink is not None:
        size = min(size, task.shrink.largest_size(len(task.files)))
    return size + len(task.files) * HEADERS


def write_shard(task: ShardTask) -> tuple[ShardTask, int]:
    """Write a shard, and return the task and the size of the shard in bytes. Raises CorruptImage or OSError.

    The shard has a temporary name until it is complete.
    """
    temporary = task.path.with_name(f".{task.path.name}.tmp")
    with (
        temporary.open("wb", buffering=WRITE_SIZE) as archive,
        tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        images = zip(task.files.names.tolist(), task.files.labels.tolist(), strict=True)
        for place, (file, label) in enumerate(images):
            name = f"{task.split}/{os.fsdecode(file)}"
            _add(tar, name, _content(task, place))
            if task.labelled:
                _add(tar, f"{key_of(name)}.cls", str(label).encode())
    temporary.replace(task.path)
    return task, task.path.stat().st_size


def _content(task: ShardTask, place: int) -> bytes:
    what, remedy = task.files.place(place), "replace or remove it"
    try:
        content = task.files.read(place)
    except OSError as error:
        raise CorruptImage(f"cannot read the image {what}: {error.strerror or error}; {remedy}") from None
    return content if task.shrink is None else shrink_image(content, task.shrink, f"the image {what}", remedy)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def _check_result(index: Index, output: str, shrink: Shrink | None) -> None:
    """Raise UserError if the shards in the folder `output` do not contain the images and classes of `index`."""
    written = read_index(output)
    same = written.classes == index.classes and (shrink is not None or written.fingerprint == index.fingerprint)
    for a, b in ((written.train, index.train), (written.validation, index.validation)):
        same = same and np.array_equal(a.names, b.names) and np.array_equal(a.labels, b.labels)
    if not same:
        raise UserError(f"{output} holds other images than those that were packed: remove it and pack again")
