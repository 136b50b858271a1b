"""The images of train/ or val/: their names, their labels, and how an image is read.

All arrays have a row for each image. Names are in an array of fixed width and not in a list of str, because 1.28
million paths then need only 40 MB and are pickled quickly. Unlike str objects, names in an array have no reference
counts. A change of a reference count would copy a page of memory that processes share.
"""

from __future__ import annotations

import contextlib
import os
import resource
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

EXCERPT = 4096  # the number of bytes at the end of an image that are part of the data set's fingerprint
LARGEST_IMAGE = 2**30  # the size in bytes above which an image is not read, because it would need too much memory


@dataclass(frozen=True)
class Files:
    """The images of a split, in torchvision's order: sorted by class, then directory, then name.

    The same images in a folder and in archives have the same names and labels.

    Attributes:
        names: The names relative to the folder of the split, bytes [n].
        labels: The classes, int64 [n].
    """

    names: NDArray[np.bytes_]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> bytes:
        """Return the content of an image file. Raises OSError."""
        raise NotImplementedError

    def place(self, index: int) -> str:
        """Return the path of an image, or its archive and name, for messages."""
        raise NotImplementedError

    def state(self, index: int) -> tuple[int, int]:
        """Return the size of an image in bytes and the time of its last change in ns. Raises OSError."""
        raise NotImplementedError

    def size(self, index: int) -> int:
        """Return the size of an image in bytes, or -1 if it is missing. Reading a missing image raises an error."""
        try:
            return self.state(index)[0]
        except OSError:
            return -1

    def excerpt(self, index: int) -> bytes:
        """Return the size of an image and its last bytes. The result is the same for a folder and for archives.

        If an image is replaced by another image of the same size, its last bytes differ, because they contain the end
        of a JPEG's data or the checksum of a PNG. A missing image has the size -1 and no bytes.
        """
        size, last = self.size(index), b""
        with contextlib.suppress(OSError):
            last = self.read_last(index, EXCERPT)
        return size.to_bytes(8, "little", signed=True) + last

    def read_last(self, index: int, length: int) -> bytes:
        """Return the last `length` bytes of an image, or all bytes if it has fewer. Raises OSError."""
        raise NotImplementedError

    def take(self, chosen: Any) -> Self:
        """Return some of the images. `chosen` is a slice, or an array that numpy accepts as an index."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: array[chosen] for name, array in arrays.items() if isinstance(array, np.ndarray)})


@dataclass(frozen=True)
class FolderFiles(Files):
    """Images that are separate files below `folder`."""

    folder: str

    def path(self, index: int) -> str:
        """Return the path of an image."""
        return os.path.join(self.folder, os.fsdecode(bytes(self.names[index])))  # noqa: PTH118

    place = path

    def read(self, index: int) -> bytes:
        with open(self.path(index), "rb", buffering=0) as file:  # noqa: PTH123
            return file.readall()

    def read_last(self, index: int, length: int) -> bytes:
        with open(self.path(index), "rb", buffering=0) as file:  # noqa: PTH123
            file.seek(max(0, file.seek(0, os.SEEK_END) - length))
            return file.read(length)

    def state(self, index: int) -> tuple[int, int]:
        status = os.stat(self.path(index))  # noqa: PTH116
        return status.st_size, status.st_mtime_ns


@dataclass(frozen=True)
class ArchiveFiles(Files):
    """Images that are parts of archives.

    Attributes:
        numbers: The index of each image's archive in `archives`, int32 [n].
        offsets, sizes: The position and the size of each image in its archive in bytes, int64 [n].
        archives: The archives.
    """

    numbers: NDArray[np.int32]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    archives: Archives

    def read(self, index: int) -> bytes:
        return self.archives.read(int(self.numbers[index]), int(self.offsets[index]), int(self.sizes[index]))

    def read_last(self, index: int, length: int) -> bytes:
        size = min(self.size(index), length)
        end = int(self.offsets[index]) + self.size(index)
        return self.archives.read(int(self.numbers[index]), end - size, size)

    def size(self, index: int) -> int:
        return int(self.sizes[index])

    def place(self, index: int) -> str:
        return f"{self.archives.paths[self.numbers[index]]}: {os.fsdecode(bytes(self.names[index]))}"

    def state(self, index: int) -> tuple[int, int]:
        return self.size(index), self.archives.changed(int(self.numbers[index]))


@dataclass(frozen=True)
class Archives:
    """Archives that are open for reading. Each process opens an archive when it first reads from it."""

    paths: tuple[str, ...]
    _open: dict[int, int] = field(default_factory=dict, repr=False, compare=False)

    def read(self, number: int, offset: int, size: int) -> bytes:
        """Return a part of an archive. Raises OSError, for example if the archive ends before the part does."""
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
        """Return the time of the last change of an archive in ns. Raises OSError."""
        return os.stat(self.paths[number]).st_mtime_ns  # noqa: PTH116

    def _open_one(self, number: int) -> int:
        while len(self._open) >= max(16, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2):
            os.close(self._open.pop(next(iter(self._open))))  # close the archive that was opened first
        descriptor = os.open(self.paths[number], os.O_RDONLY)
        # Images are read in random order, so tell the system not to read ahead.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        self._open[number] = descriptor
        return descriptor

    def __getstate__(self) -> dict[str, Any]:
        # Open files cannot be sent to another process. That process opens the archives again.
        return vars(self) | {"_open": {}}

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
