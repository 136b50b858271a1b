"""Find processes whose state differs from the others, name them and stop the run."""

from __future__ import annotations

import zlib
from collections import Counter

from app.base.errors import FAILED, UserError
from app.training.state import State
from app.world.world import World, gather_objects


class Diverged(UserError):
    """The states of two processes differ."""

    exit_code = FAILED
    everywhere = True


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
            usual = Counter(values).most_common(1)[0][0]  # with two ranks this is the value of the first one
            different += [(rank, name) for rank, value in enumerate(values) if value != usual]
    if different:
        rank, name = different[0]
        ranks = sorted({rank for rank, _ in different})
        raise Diverged(
            f"{when} rank {rank} on {world.hosts[rank]} holds another {name} than the others ({len(different)} tensors"
            f" of ranks {', '.join(map(str, ranks))} differ): look for faulty memory or mixed versions there (doctor),"
            " then continue with --resume"
        )
