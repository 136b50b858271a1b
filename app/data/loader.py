"""Read batches in a given order. Loader processes decode them before they are needed.

Loader processes are forked from a server process. A fork of the training process itself would copy an MPI communicator
or a CUDA context, and neither can be used in a copy. The server has already imported torch, so a new loader process
starts in a fraction of a second.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import socket
import tempfile
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from app.base.errors import UserError
from app.base.parent import end_with_starter
from app.base.phase import phase
from app.base.signals import children_outlive_signals
from app.data.order import Item
from app.data.sources import Source
from app.data.splits import Split

PREFETCH = 4  # the number of batches that a loader process decodes before they are needed
MOST_PROCESSES = 16
# The path of a socket has at most 107 bytes. multiprocessing appends the 32 bytes of `/pymp-xxxxxxxx/listener-xxxxxxxx`
# to the path in TMPDIR.
_LONGEST_FOLDER = 107 - 32

Batch = tuple[Tensor, Tensor]  # images uint8 [n, H, W, C], labels int64 [n]


class Loader:
    """Iterate over batches of a split: images, uint8 [n, H, W, C], and labels, int64 [n].

    `close()` or the end of a `with` block ends the loader processes. They also end if the training process is killed.

    Args:
        split: The images.
        batches: For each batch, the epoch and the index of each of its images. At most PREFETCH batches per loader
            process are taken before they are needed.
        processes: The number of loader processes. If it is 0, the calling process decodes each batch when it is needed.
        pin_memory: Whether the batches are in pinned memory, for copies to a GPU.

    Raises:
        CorruptImage: An image of the batch cannot be decoded. The text names the file.
        RuntimeError: A loader process has died.
    """

    def __init__(self, split: Split, batches: Iterable[list[Item]], *, processes: int, pin_memory: bool) -> None:
        # Without this line, every rank would print a warning if there are more loader processes than cores. The user
        # may have chosen their number on purpose.
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        loader: DataLoader[Batch] = DataLoader(
            _Reporting(split),  # type: ignore[arg-type]  # it has the methods of a Dataset, but not the type
            batch_sampler=batches,
            num_workers=processes,
            collate_fn=_as_it_is,
            pin_memory=pin_memory,
            prefetch_factor=PREFETCH if processes else None,
            multiprocessing_context=_fork_server() if processes else None,
            worker_init_fn=_end_with_training_process,
            generator=torch.Generator(),  # otherwise the loader would change torch's global random state
        )
        with children_outlive_signals() if processes else nullcontext():
            self._iterator = iter(loader)
        self._phase = "waiting for data" if processes else "reading data"
        self.waited = 0.0  # seconds that the training process has waited for batches
        atexit.register(self.close)  # runs before torch's exit handlers, which would wait for the loader processes

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        started = time.monotonic()
        try:
            with phase(self._phase):
                return self._next()
        finally:
            self.waited += time.monotonic() - started

    def _next(self) -> Batch:
        try:
            batch: Batch | UserError = next(self._iterator)
        except (RuntimeError, OSError, EOFError) as error:  # each of them may mean that a loader process has died
            processes = getattr(self._iterator, "_workers", [])
            if not wait([process.sentinel for process in processes], timeout=1):
                raise
            self.close()
            raise RuntimeError(
                f"a loader process died ({error}): out of memory, or /dev/shm too small? Try fewer loader processes"
            ) from None
        if isinstance(batch, UserError):
            self.close()
            raise batch
        return batch

    def close(self) -> None:
        """End the loader processes at once, even if they have not finished. It may be called several times."""
        atexit.unregister(self.close)
        processes = getattr(self._iterator, "_workers", [])
        if processes:
            for process in processes:
                if process.is_alive():
                    process.kill()  # a loader process has no data that must be saved
            # Torch sets this event to end its processes. If one of them was killed while it looked at the event, the
            # event stays locked, and `set` would wait forever.
            self._iterator._workers_done_event = threading.Event()  # type: ignore[attr-defined]
            self._iterator._shutdown_workers()  # type: ignore[attr-defined]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Reporting:
    """A split that returns a UserError instead of raising it.

    If a loader process raised the error, torch would raise another one in the training process, with a traceback as its
    message.
    """

    def __init__(self, split: Split) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, items: Sequence[Item]) -> Batch | UserError:
        try:
            return self.split.__getitems__(items)
        except UserError as error:
            return error.with_traceback(None)


def _end_with_training_process(_: int) -> None:
    end_with_starter()


def _as_it_is(batch: Any) -> Any:
    return batch


def check_shared_memory(processes: int, images: int, image_bytes: int) -> None:
    """Raise UserError if /dev/shm is too small for the batches of loader processes.

    Without this check, the signal SIGBUS would end the loader processes later.

    Args:
        processes: The number of all loader processes of this host. Each of them may keep PREFETCH batches in /dev/shm.
        images: The number of images in a batch.
        image_bytes: The size of a decoded image in bytes.
    """
    there = os.statvfs("/dev/shm")
    size, needed = there.f_blocks * there.f_frsize, processes * PREFETCH * images * image_bytes
    if size < needed:
        raise UserError(
            f"/dev/shm of {socket.gethostname()} has {size / 2**20:.0f} MiB, but {processes} loader processes may need"
            f" {needed / 2**20:.0f} MiB: docker run --shm-size {needed // 2**30 + 1}g, or give --loader-processes 0"
        )


def _fork_server() -> ForkServerContext:
    """Return the context that starts loader processes. If TMPDIR is too long for the paths of sockets, use /tmp."""
    if len(os.fsencode(tempfile.gettempdir())) > _LONGEST_FOLDER:
        os.environ["TMPDIR"], tempfile.tempdir = "/tmp", None  # the loader processes inherit the variable
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["app.data.fork_server"])
    return context


def default_loader_processes(source: Source, local_size: int) -> int:
    """Return the number of loader processes for each of the `local_size` training processes of a host.

    It is 0 for images that are in memory.
    """
    if source.train.in_memory:
        return 0
    return max(1, min(MOST_PROCESSES, len(os.sched_getaffinity(0)) // local_size))
