"""The images of train/ or val/: their names, their labels, and how one of them is read.

All arrays have one row for each image. Fixed-width arrays rather than lists of str: 1.28 million paths are 40 MB, are
pickled at once and are never copied page by page because of reference counts.
"""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

LARGEST_IMAGE = 2**30  # bytes; memory for it would be taken before it is read


@dataclass(frozen=True)
class Files:
    """The images of a split, in torchvision's order: by class, then directory, then name.

    names: bytes [n], relative to the folder of the split; labels: int64 [n]. They are the same for the same images,
    whether these lie in a folder or in archives.
    """

    names: NDArray[np.bytes_]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> bytes:
        """Return the contents of an image. Raises OSError."""
        raise NotImplementedError

    def place(self, index: int) -> str:
        """Return where an image lies, for messages."""
        raise NotImplementedError

    def state(self, index: int) -> tuple[int, int]:
        """Return the size of an image in bytes and when it was changed, in ns. Raises OSError."""
        raise NotImplementedError

    def size(self, index: int) -> int:
        """Return the size of an image in bytes, -1 where it is not there: it is named when it is read."""
        try:
            return self.state(index)[0]
        except OSError:
            return -1

    def take(self, chosen: Any) -> Self:
        """Return some of the images: a slice, or an array that numpy accepts as an index."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: array[chosen] for name, array in arrays.items() if isinstance(array, np.ndarray)})


@dataclass(frozen=True)
class FolderFiles(Files):
    """Images that are files of their own below `folder`."""

    folder: str

    def path(self, index: int) -> str:
        """Return the path of an image."""
        return os.path.join(self.folder, os.fsdecode(bytes(self.names[index])))  # noqa: PTH118

    place = path

    def read(self, index: int) -> bytes:
        with open(self.path(index), "rb", buffering=0) as file:  # noqa: PTH123
            return file.readall()

    def state(self, index: int) -> tuple[int, int]:
        status = os.stat(self.path(index))  # noqa: PTH116
        return status.st_size, status.st_mtime_ns


@dataclass(frozen=True)
class ArchiveFiles(Files):
    """Images that are parts of archives, read at their places.

    numbers: int32 [n], the archive of each image; offsets and sizes: int64 [n], in bytes.
    """

    numbers: NDArray[np.int32]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    archives: Archives

    def read(self, index: int) -> bytes:
        return self.archives.read(int(self.numbers[index]), int(self.offsets[index]), int(self.sizes[index]))

    def size(self, index: int) -> int:
        return int(self.sizes[index])

    def place(self, index: int) -> str:
        return f"{self.archives.paths[self.numbers[index]]}: {os.fsdecode(bytes(self.names[index]))}"

    def state(self, index: int) -> tuple[int, int]:
        return self.size(index), self.archives.changed(int(self.numbers[index]))


@dataclass(frozen=True)
class Archives:
    """Archives that are open for reading. Each process opens one when it first reads from it."""

    paths: tuple[str, ...]
    _open: dict[int, int] = field(default_factory=dict, repr=False, compare=False)

    def read(self, number: int, offset: int, size: int) -> bytes:
        """Return a part of an archive. Raises OSError, also where the archive ends before the part does."""
        if size > LARGEST_IMAGE:
            raise OSError(f"an image of {size:,} bytes")
        descriptor = self._open.get(number)
        if descriptor is None:
            descriptor = self._open_one(number)
        content = os.pread(descriptor, size, offset)
        if len(content) < size:
            raise OSError("the archive has become shorter since it was listed")
        return content

    def changed(self, number: int) -> int:
        """Return when an archive was changed, in ns. Raises OSError."""
        return os.stat(self.paths[number]).st_mtime_ns  # noqa: PTH116

    def _open_one(self, number: int) -> int:
        while len(self._open) >= max(16, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2):
            os.close(self._open.pop(next(iter(self._open))))  # the one that was opened first
        descriptor = os.open(self.paths[number], os.O_RDONLY)
        # Images are read in random order: what the system would read ahead is not needed.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        self._open[number] = descriptor
        return descriptor

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths, "_open": {}}  # another process opens them itself

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
