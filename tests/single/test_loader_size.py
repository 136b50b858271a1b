"""The number of loader processes that follows from the times of decoding and computing."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from app.data.sources import open_source
from app.recipe.config import Config
from app.recipe.plan import make_plan
from app.runs.run import Run
from app.training import loader_size
from app.training.loader_size import enough, loader_processes, seconds_of_a_pass
from app.training.run import make_state
from app.world import world as cluster
from benchmarks import jpegs


def test_enough() -> None:
    assert enough(decoding=0.003, computing=0.001, most=16) == 4  # 3 keep up on average
    assert enough(decoding=0.003, computing=0.1, most=16) == 1
    assert enough(decoding=0.003, computing=1e-5, most=16) == 16


def test_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jpegs.write_folder(tmp_path, images=8, repeats=4)
    config = Config(data=str(tmp_path), image_size=32, resize=40, minibatch=8, per_worker=4, width=4)
    source = open_source(
        config.data, image_size=32, resize=40, augmentation="paper", seed=0, synthetic_images=1, synthetic_classes=1
    )
    world = cluster.start("auto", "cpu")
    try:
        run = Run(config, make_plan(config, len(source.train), len(source.validation)), source, tmp_path)
        state = make_state(run, world)
        before = {name: tensor.clone() for name, tensor in state.tensors().items()}
        assert 0 < seconds_of_a_pass(run, state, world) < 30
        assert all(torch.equal(tensor, before[name]) for name, tensor in state.tensors().items())
        assert all(p.grad is None for p in state.network.parameters())
        monkeypatch.setattr(loader_size, "default_loader_processes", lambda source, local_size: 64)
        monkeypatch.setattr(loader_size, "seconds_of_a_pass", lambda run, state, world: 1e-9)
        assert loader_processes(run, state, world) == 64
        monkeypatch.setattr(loader_size, "seconds_of_a_pass", lambda run, state, world: 1e9)
        assert loader_processes(run, state, world) == 1
        synchronised = replace(run, config=replace(config, sync_bn=True))
        assert loader_processes(synchronised, state, world) == 64
    finally:
        cluster.stop()
