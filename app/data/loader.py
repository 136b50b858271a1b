"""Reads batches in a given order. Loader processes decode them ahead of their use.

Loader processes are forked from a server process: a fork of the training process itself would copy an MPI communicator
or a CUDA context, and both break. The server has imported torch already, so a new loader starts in a fraction of a
second.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import socket
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from app.base.errors import UserError
from app.base.phase import phase
from app.data.order import Item
from app.data.sources import Source
from app.data.splits import Split

PREFETCH = 4  # batches that a loader process decodes before they are used
MOST_PROCESSES = 16

Batch = tuple[Tensor, Tensor]  # images uint8 [n, H, W, C], labels int64 [n]


class Loader:
    """Iterates over the batches of a split, in the order of `batches`.

    Each batch is a pair: images, uint8 [n, H, W, C], and labels, int64 [n]. `batches` is read only as far ahead as the
    loader processes work. With `processes` = 0 this process decodes a batch when it is asked for. `close()` ends the
    loader processes, and so does leaving a `with` block.

    Raises CorruptImage, whose one line names the file, when its batch is due, and RuntimeError when a loader process
    has died.
    """

    def __init__(self, split: Split, batches: Iterable[list[Item]], *, processes: int, pin_memory: bool) -> None:
        # More processes than cores are the user's choice. Without this line every rank would print a warning.
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        loader: DataLoader[Batch] = DataLoader(
            _Reporting(split),  # type: ignore[arg-type]  # a Dataset in all but name
            batch_sampler=batches,
            num_workers=processes,
            collate_fn=_as_it_is,
            pin_memory=pin_memory,
            prefetch_factor=PREFETCH if processes else None,
            multiprocessing_context=_fork_server() if processes else None,
            worker_init_fn=_outlive_signals if processes else None,
            generator=torch.Generator(),  # so that the loader does not change torch's global random state
        )
        self._iterator = iter(loader)
        self._phase = "waiting for data" if processes else "reading data"
        self.waited = 0.0  # seconds that the training process has waited for batches
        atexit.register(self.close)  # runs before torch's exit handlers, which would wait for these processes

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
        except (
            RuntimeError,
            OSError,
            EOFError,
        ) as error:  # torch raises it, or a socket if the process at its other side has ended
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
        """End the loader processes at once, whether they have finished or not. It may be called again."""
        atexit.unregister(self.close)
        processes = getattr(self._iterator, "_workers", [])
        if processes:
            for process in processes:
                if process.is_alive():
                    process.kill()  # a loader process has no data that must be saved
            self._iterator._shutdown_workers()  # type: ignore[attr-defined]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Reporting:
    """Returns a user's error as a value. torch would raise it in the parent process with a traceback as its text."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, items: Sequence[Item]) -> Batch | UserError:
        try:
            return self.split.__getitems__(items)
        except UserError as error:
            return error.with_traceback(None)


def _as_it_is(batch: Any) -> Any:
    return batch


def _outlive_signals(_: int) -> None:
    """Ignore the signals that the whole job gets, because the training process needs its data until it has saved."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def check_shared_memory(processes: int, images: int, image_bytes: int) -> None:
    """Raise UserError if /dev/shm is too small for the batches of loader processes, which would then end by SIGBUS.

    Args:
        processes: The number of all loader processes of this host. Each is PREFETCH batches ahead.
        images: The images of a batch.
        image_bytes: The bytes of a decoded image.
    """
    there = os.statvfs("/dev/shm")
    size, needed = there.f_blocks * there.f_frsize, processes * PREFETCH * images * image_bytes
    if size < needed:
        raise UserError(
            f"/dev/shm of {socket.gethostname()} has {size / 2**20:.0f} MiB, the {processes} loader processes may fill"
            f" {needed / 2**20:.0f} MiB: docker run --shm-size {needed // 2**30 + 1}g, or give --loader-processes 0"
        )


def _fork_server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["app.data.fork_server"])
    return context


def default_loader_processes(source: Source, local_size: int) -> int:
    """Return the number of loader processes for each of the `local_size` training processes of a host.

    It is 0 for images that are held in memory.
    """
    if source.train.in_memory:
        return 0
    return max(1, min(MOST_PROCESSES, len(os.sched_getaffinity(0)) // local_size))
