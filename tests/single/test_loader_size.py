"""The number of loader processes follows from the measured times of decoding and computing."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from app.data.loader import default_loader_processes
from app.data.sources import open_source
from app.recipe.config import Config
from app.recipe.plan import make_plan
from app.runs.run import Run
from app.training.loader_size import enough, loader_processes, seconds_of_a_pass
from app.training.run import make_state
from app.world import world as cluster
from app.world.world import World
from benchmarks import jpegs


def test_enough() -> None:
    # 3 are enough on average, and HEADROOM adds one.
    assert enough(decoding=0.003, computing=0.001, most=16) == 4
    assert enough(decoding=0.003, computing=0.1, most=16) == 1
    assert enough(decoding=0.003, computing=1e-5, most=16) == 16


@pytest.fixture
def one_process() -> Iterator[World]:
    """Start a world of one process, which uses at most two cores."""
    threads, cores = torch.get_num_threads(), os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(cores)[:2])
    yield cluster.start("auto", "cpu")
    cluster.stop()
    torch.set_num_threads(threads)
    os.sched_setaffinity(0, cores)


def measured_run(folder: Path, model: str, side: int, *, per_worker: int = 4, width: int = 4) -> Run:
    """Return a run on the images of a folder, with two workers of `per_worker` images."""
    config = Config(
        data=str(folder), model=model, image_size=side, resize=side, minibatch=2 * per_worker, per_worker=per_worker,
        width=width, last_gamma=1.0,
    )  # fmt: skip
    source = open_source(
        config.data, image_size=side, resize=side, augmentation="paper", seed=0, synthetic_images=1, synthetic_classes=1
    )
    return Run(config, make_plan(config, len(source.train), len(source.validation)), source, folder)


def test_measuring_changes_no_state(tmp_path: Path, one_process: World) -> None:
    jpegs.write_folder(tmp_path, images=8, repeats=4)
    run = measured_run(tmp_path, "resnet8", 32)
    state = make_state(run, one_process)
    before = {name: tensor.clone() for name, tensor in state.tensors().items()}
    assert 0 < seconds_of_a_pass(run, state, one_process) < 30
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.tensors().items())
    assert all(p.grad is None for p in state.network.parameters())


def test_a_pass_has_as_many_workers_as_in_training(tmp_path: Path, one_process: World) -> None:
    jpegs.write_folder(tmp_path, images=8, repeats=4)
    run = measured_run(tmp_path, "resnet8", 32)
    for ghost, images in (("off", 4), ("2", 8)):
        run = replace(run, config=replace(run.config, ghost=ghost))
        state = make_state(run, one_process)
        seen: list[int] = []
        state.network.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(len(given[0])))
        seconds_of_a_pass(run, state, one_process)
        assert set(seen) == {images}


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core has one loader process, which is not measured")
def test_large_images_need_more_processes_than_small_ones(tmp_path: Path, one_process: World) -> None:
    """A tiny network on JPEGs of 500 x 380 pixels needs all processes. ResNet-50 on images of 8 x 8 needs one.

    In the first run, decoding an image takes about 7 times as long as computing with it. In the second run, it takes a
    small part of that time. So the result is clear even if other programs use the cores.
    """
    (tmp_path / "large").mkdir()
    jpegs.write_folder(tmp_path / "large", images=8, repeats=4)
    for split in ("train", "val"):
        for label in "ab":
            (tmp_path / "small" / split / label).mkdir(parents=True)
            for number in range(8):
                Image.new("RGB", (8, 8)).save(tmp_path / "small" / split / label / f"{number}.png")
    torch.set_num_threads(1)  # other tests may use the other core
    most = default_loader_processes(measured_run(tmp_path / "large", "resnet8", 8).source, 1)
    hungry = measured_run(tmp_path / "large", "resnet8", 8, per_worker=16, width=1)
    assert loader_processes(hungry, make_state(hungry, one_process), one_process) == most > 1
    fed = measured_run(tmp_path / "small", "resnet50", 64)
    state = make_state(fed, one_process)
    assert loader_processes(fed, state, one_process) == 1
    synchronised = replace(fed, config=replace(fed.config, sync_bn=True))
    assert loader_processes(synchronised, state, one_process) == most
