"""The program of each process of test_elastic_share.py. It prints its share of the host in each session.

The second of two processes ends in the first session, so that the first has a second session alone.
"""

from __future__ import annotations

import json
import os

import torch

from app.base.failure import end
from app.world import elastic, world

device = world.join(device="cpu")


def session(commit: elastic.Commit) -> None:
    here = world.current_world(device)
    said = {
        "rank": here.rank,
        "local": [here.local_rank, here.local_size],
        "threads": torch.get_num_threads(),
        "hosts": len(set(here.hosts)),
    }
    print("SAID " + json.dumps(said), flush=True)
    world.sum_over_processes(torch.ones(1))  # both have printed
    if here.size > 1:
        if here.rank == 1:
            os._exit(1)
        world.sum_over_processes(torch.ones(1))  # this fails, because the other process has ended


elastic.run_sessions(session, save=lambda: None, restore=lambda: None)
end(0)
