"""Finds processes that do not hold the same state any more, names them and stops the run."""

from __future__ import annotations

import zlib
from collections import Counter

from app.base.errors import FAILED, UserError
from app.training.state import State
from app.world.world import World, gather_objects


class Diverged(UserError):
    """Two processes hold different parameters."""

    exit_code = FAILED
    everywhere = True


def compare(state: State, world: World, when: str) -> None:
    """Compares checksums of the state's tensors over all processes, which all must call it.

    Args:
        state: this process's state.
        world: the processes.
        when: the moment, as the message names it.

    Raises:
        Diverged: on every process, where a tensor differs between two of them.
    """
    own = {name: zlib.crc32(t.cpu().contiguous().numpy().tobytes()) for name, t in state.tensors().items()}
    own["position"] = zlib.crc32(repr(state.position).encode())
    rows: list[dict[str, int]] = gather_objects(own)
    different = []
    for name in own:
        values = [row.get(name) for row in rows]
        if len(set(values)) > 1:
            usual = Counter(values).most_common(1)[0][0]  # of two ranks the first is taken to be right
            different += [(rank, name) for rank, value in enumerate(values) if value != usual]
    if different:
        rank, name = different[0]
        ranks = sorted({rank for rank, _ in different})
        raise Diverged(
            f"{when} rank {rank} on {world.hosts[rank]} holds another {name} than the others ({len(different)} tensors"
            f" of ranks {', '.join(map(str, ranks))} differ): look for faulty memory or mixed versions there (doctor),"
            " then go on with --resume"
        )
