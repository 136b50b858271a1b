"""Find processes whose input or state differs from that of other processes, name them and stop the run."""

from __future__ import annotations

import zlib
from collections import Counter
from typing import Any

from app.base.errors import FAILED, UserError
from app.data.sources import Source
from app.recipe.comparison import computed_fields
from app.recipe.config import Config, flag
from app.training.state import State
from app.world.world import World, gather_objects


class OtherInput(UserError):
    """A process has other options, images or weights than rank 0."""

    everywhere = True


class Diverged(UserError):
    """The states of two processes differ."""

    exit_code = FAILED
    everywhere = True


def compare_recipes(config: Config, world: World) -> None:
    """Check that the options which decide what is computed are equal on all processes. All processes must call it.

    The options can differ, because each process reads the files of --config and --resume itself.

    Raises:
        OtherInput: An option differs between two processes. All processes raise it.
    """
    rows: list[dict[str, Any]] = gather_objects(computed_fields(config))
    for rank, row in enumerate(rows):
        if found := [flag(name) for name in row if row[name] != rows[0][name]]:
            raise OtherInput(
                f"rank {rank} on {world.hosts[rank]} has another {', '.join(found)} than rank 0 on {world.hosts[0]}:"
                " give all processes the same files of --config and --resume, and start again"
            )


def compare_networks(description: dict[str, Any], weights: str, world: World) -> None:
    """Compare the description of a trained network over all processes. All processes must call it.

    Args:
        description: The facts about the network that this process has read, except its weights.
        weights: The file or folder from which the network was read, for the message.
        world: The processes.

    Raises:
        OtherInput: The descriptions of two processes differ. All processes raise it.
    """
    rows: list[dict[str, Any]] = gather_objects(description)
    for rank, row in enumerate(rows):
        if found := [name for name in row if row[name] != rows[0][name]]:
            raise OtherInput(
                f"rank {rank} on {world.hosts[rank]} finds another network in {weights} than rank 0 on"
                f" {world.hosts[0]} (another {', '.join(found)}): give all processes the same file or folder"
            )


def compare_images(source: Source, world: World) -> None:
    """Compare the fingerprints of the data set over all processes. All processes must call it.

    Each process reads the data set itself, from a copy on its host or from a shared folder.

    Raises:
        OtherInput: The images of two processes differ. All processes raise it.
    """
    fingerprints: list[str] = gather_objects(source.fingerprint)
    for rank, found in enumerate(fingerprints):
        if found != fingerprints[0]:
            raise OtherInput(
                f"rank {rank} on {world.hosts[rank]} finds other images in {source.name} than rank 0 on"
                f" {world.hosts[0]} (fingerprints {found} and {fingerprints[0]}): copy the data set to all hosts"
                " again, or use a shared folder"
            )


def compare(state: State, world: World, when: str) -> None:
    """Compare checksums of the state's tensors over all processes. All processes must call it.

    Args:
        state: This process's state.
        world: The processes of the run.
        when: The moment of the comparison, for the message.

    Raises:
        Diverged: A tensor differs between two processes. All processes raise it.
    """
    own = {name: zlib.crc32(t.cpu().contiguous().numpy().tobytes()) for name, t in state.tensors().items()}
    own["position"] = zlib.crc32(repr(state.position).encode())
    rows: list[dict[str, int]] = gather_objects(own)
    different = []
    for name in own:
        values = [row.get(name) for row in rows]
        if len(set(values)) > 1:
            # If several values are equally frequent, this is the one of the lowest rank.
            usual = Counter(values).most_common(1)[0][0]
            different += [(rank, name) for rank, value in enumerate(values) if value != usual]
    if different:
        rank, name = different[0]
        ranks = sorted({rank for rank, _ in different})
        raise Diverged(
            f"{when} rank {rank} on {world.hosts[rank]} holds another {name} than the others ({len(different)} tensors"
            f" of ranks {', '.join(map(str, ranks))} differ): look for faulty memory or mixed versions there (doctor),"
            " then continue with --resume"
        )
