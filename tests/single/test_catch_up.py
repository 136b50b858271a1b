"""A session of an elastic run continues from a checkpoint that is newer than the state in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from app.recipe.config import from_dict
from app.recipe.plan import Position
from app.recipe.presets import preset
from app.training.run import make_state, open_run
from app.training.session import catch_up
from app.world import world
from tests.support.in_process import succeed

SMALL = {"width": 4, "minibatch": 64, "per_worker": 64, "device": "cpu"}


def position_after(folder: Path, **changed: Any) -> Position:
    """Return the position of a state that was at the start of a run when a session begins."""
    config, alone = from_dict({**preset("digits"), **SMALL, "epochs": 1, **changed}), world.start(device="cpu")
    run = open_run(config, alone, find_folder=lambda: folder)
    state = make_state(run, alone)
    catch_up(run, state)
    world.stop()
    return state.position


def test_only_a_checkpoint_of_the_same_run_whose_steps_are_in_the_log_counts(tmp_path: Path) -> None:
    run, options = tmp_path / "run", [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    succeed("train", *options, "--epochs", 1, "--output", run)
    assert position_after(run) == (1, 0)
    assert position_after(run, seed=1) == (0, 0)
    lines = (run / "log.jsonl").read_text().splitlines()
    kinds = [json.loads(line)["kind"] for line in lines]
    assert kinds[-2:] == ["train", "eval"]
    (run / "log.jsonl").write_text("".join(f"{line}\n" for line in lines[:-1]))
    assert position_after(run) == (0, 0)  # the log lacks the line of the evaluation, so the checkpoint does not count
    (run / "log.jsonl").write_text("".join(f"{line}\n" for line in [*lines[:-2], lines[-1]]))
    assert position_after(run) == (0, 0)  # without the last steps
    (run / "log.jsonl").write_text("".join(f"{line}\n" for line in lines))
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(b"damaged")
    assert position_after(run) == (0, 0)
