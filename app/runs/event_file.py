"""Append to TensorBoard's event files, also after the disk was full.

A run that is continued must drop the values after the point from which it continues. TensorBoard can only drop the
values above one x, but the curves here have different x axes (steps, images and epochs). So this module writes the
values to keep into a new file.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO, FileIO
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


class EventFile:
    """Append events to a new file of a folder.

    A thread writes the events, because the checksum of a large image takes seconds. Events that cannot be written, for
    example because the disk is full, stay in memory, and each later call tries to write them first. PyTorch's
    SummaryWriter is not used, because it refuses all values after the first error.

    Args:
        folder: The folder of the event files.
        events: The first events of the file.
        replaced: Older event files, which this file replaces. They are removed after the first events are written, so
            that no value is lost if the process ends earlier.
    """

    def __init__(self, folder: Path, events: Iterable[Event] = (), replaced: Iterable[Path] = ()) -> None:
        # The name begins with the time, because TensorBoard reads the files of a folder in the order of their names.
        self.path = folder / f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"
        self.replaced = list(replaced)
        self.file: FileIO | None = None
        self.unwritten = bytearray()
        self.thread = ThreadPoolExecutor(1)
        self.add(Event(wall_time=time.time(), file_version="brain.Event:2"), *events)

    def add(self, *events: Event) -> None:
        """Let the thread write events, and return immediately. If writing fails, the next call tries again."""
        self.thread.submit(self._write, *events)

    def flush(self) -> None:
        """Wait until all events are passed to the operating system. Raises OSError if they cannot be written yet."""
        self.thread.submit(self._write).result()

    def close(self) -> None:
        """Write all events and close the file. Raises OSError if some events could not be written. These are lost."""
        try:
            self.flush()
        finally:
            self.thread.shutdown()
            if self.file is not None:
                self.file.close()

    def _write(self, *events: Event) -> None:
        records = BytesIO()
        for each in events:
            RecordWriter(records).write(each.SerializeToString())
        self.unwritten += records.getvalue()
        if self.file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = FileIO(self.path, "ab")
        while self.unwritten:
            del self.unwritten[: self.file.write(self.unwritten)]
        while self.replaced:
            self.replaced.pop().unlink(missing_ok=True)


def event(summary: Summary, step: int) -> Event:
    """Return an event that contains a summary, its step and the current time."""
    return Event(wall_time=time.time(), step=step, summary=summary)


def scalars(values: Mapping[str, float], step: int) -> Event:
    """Return several values as one event with the current time."""
    return event(Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]), step)


def continued(folder: Path, limits: Mapping[str, int], of: str = "") -> tuple[EventFile, int]:
    """Return a new event file that replaces those of a folder, without the values that a continued run writes again.

    Also return the last step whose value with the name `of` is kept, or 0 if there is none.

    Args:
        folder: The folder of the event files.
        limits: The last step whose values are kept, for each kind of values. The keys are the first parts of the
            values' names (the part before "/"). All values with other names are removed.
        of: The name of the value whose last step is returned, or "" to return 0.
    """
    old = sorted(folder.glob("events.out.tfevents.*"))
    kept = kept_events(old, limits) if limits else []
    last = max((event.step for event in kept if any(value.tag == of for value in event.summary.value)), default=0)
    return EventFile(folder, kept, old), last


def kept_events(files: Iterable[Path], limits: Mapping[str, int]) -> list[Event]:
    """Return the events of TensorBoard that a run keeps when it continues. Duplicate values are left out.

    Args:
        files: The event files.
        limits: The last step whose values are kept, as in `continued`.
    """
    if not files:
        return []
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader  # importing it takes a second

    kept, seen = [], set()
    for path in files:
        for raw in RawEventFileLoader(str(path)).Load():
            event = Event.FromString(raw)
            values = [
                value
                for value in event.summary.value
                if event.step <= limits.get(value.tag.split("/")[0], -1) and (value.tag, event.step) not in seen
            ]
            if values:
                seen |= {(value.tag, event.step) for value in values}
                summary = Summary(value=values)
                kept.append(Event(step=event.step, wall_time=event.wall_time, summary=summary))
    return kept
