"""What each rank of test_world_launchers.py runs: what world.start() says and sums known beforehand, as JSON."""

from __future__ import annotations

import json
import sys

import torch

from app.cluster import world


def main() -> None:
    for _ in range(2):  # stop() and start() again: MPI must outlive Horovod
        here = world.start(collectives=sys.argv[1])
        names = {"float64": torch.float64, "float32": torch.float32, "int64": torch.int64}
        sums = {
            name: world.sum_over_processes(torch.tensor([10**here.rank, 3], dtype=dtype))
            for name, dtype in names.items()
        }
        assert all(str(total.dtype) == f"torch.{name}" for name, total in sums.items())
        image = torch.full((2, 3, 4, 4), float(here.rank)).contiguous(memory_format=torch.channels_last)
        world.broadcast_parameters(
            [("plain", plain := torch.full((3,), float(here.rank))), ("image", image)], root=here.size - 1
        )
        said = {
            "rank": here.rank,
            "size": here.size,
            "local": [here.local_rank, here.local_size],
            "hosts": len(set(here.hosts)),
            "controller": here.controller,
            "collectives": here.collectives,
            "device": here.device.type,
            "sums": {name: total.tolist() for name, total in sums.items()},
            "one": world.broadcast_object({"from": here.rank}, root=here.size - 1)["from"],
            "all": world.gather_objects("x" * here.rank),
            "overwritten": [plain.unique().tolist(), image.unique().tolist()],
        }
        world.stop()
    print("SAID " + json.dumps(said), flush=True)


main()
