"""The loader gives the same batches with 0, 1 and 3 processes, ends its processes, and reports bad images."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from app.base.errors import CorruptImage, UserError
from app.base.signals import SIGNALS
from app.data.images import CROP_DRAWS
from app.data.loader import PREFETCH, Loader, check_shared_memory, default_loader_processes
from app.data.order import Item, worker_batches
from app.data.sources import Source, open_source
from app.data.splits import ArraySplit
from app.hosts.checks import SHM_PER_SLOT

ROOT = Path(__file__).parents[2]
IMAGES = 24  # the number of images in each of two classes
pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in ("a", "b"):
            (root / split / label).mkdir(parents=True)
            for i in range(IMAGES):
                pixels = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
                image = pixels.resize((60, 50), Image.Resampling.BICUBIC)
                image.save(root / split / label / f"{i:02}.jpg", quality=92)
    return root


def opened(folder: Path, augmentation: str = "paper") -> Source:
    return open_source(str(folder), image_size=32, resize=36, augmentation=augmentation, seed=3)


def two_epochs() -> Iterator[list[Item]]:
    return worker_batches(
        seed=3, images=2 * IMAGES, minibatch=16, per_worker=8, epoch=0, seen=16, epochs=2, rank=1, size=2
    )


def endless() -> Iterator[list[Item]]:
    while True:
        yield [(0, index) for index in range(8)]


def test_any_number_of_processes_gives_the_same_batches(folder: Path) -> None:
    source, torch_state = opened(folder), torch.get_rng_state()
    runs = []
    for processes in (0, 1, 3):
        with Loader(source.train, two_epochs(), processes=processes, pin_memory=False) as loader:
            runs.append(list(loader))
    batches = list(two_epochs())
    for run in runs:
        assert len(run) == len(batches) == 5
        for (images, labels), batch, (first_images, _) in zip(run, batches, runs[0], strict=True):
            assert (images.shape, images.dtype) == ((8, 32, 32, 3), torch.uint8)
            assert images.permute(0, 3, 1, 2).is_contiguous(memory_format=torch.channels_last)
            assert labels.dtype == torch.int64 and labels.tolist() == [index // IMAGES for _, index in batch]
            assert torch.equal(images, first_images)
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_an_image_is_augmented_by_seed_epoch_and_index_alone(folder: Path) -> None:
    split = opened(folder).train
    images, _ = split.__getitems__([(0, 1), (1, 1), (0, 2)])
    assert torch.equal(images[:1], split.__getitems__([(0, 1)])[0])
    assert not torch.equal(images[0], images[1])
    plain, _ = opened(folder, "none").train.__getitems__([(0, 1), (5, 1)])
    assert torch.equal(plain[0], plain[1])


def test_validation_ignores_the_epoch(folder: Path) -> None:
    images, labels = opened(folder).validation.__getitems__([(0, 30), (7, 30)])
    assert torch.equal(images[0], images[1]) and labels.tolist() == [1, 1]


def test_half_of_the_images_are_flipped(tmp_path: Path) -> None:
    """The image becomes brighter from left to right. In half of its crops, it becomes darker."""
    for split in ("train", "val"):
        (tmp_path / "ramp" / split / "a").mkdir(parents=True)
        ramp = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None, :], 64, axis=0)
        Image.fromarray(ramp).save(tmp_path / "ramp" / split / "a" / "0.png")
    images, _ = opened(tmp_path / "ramp").train.__getitems__([(epoch, 0) for epoch in range(1000)])
    values = images[..., 0].float()
    rising = values[:, :, -1].mean(dim=1) > values[:, :, 0].mean(dim=1)
    assert abs(rising.float().mean().item() - 0.5) < 0.06  # the tolerance is 3.8 standard deviations
    assert CROP_DRAWS == 50


def test_batches_are_read_no_further_ahead_than_needed(folder: Path) -> None:
    asked = []

    def batches() -> Iterator[list[Item]]:
        for batch in endless():
            asked.append(batch)
            yield batch

    for processes, most in ((0, 3), (2, 12)):
        asked.clear()
        with Loader(opened(folder).train, batches(), processes=processes, pin_memory=False) as loader:
            for _ in range(3):
                next(loader)
        assert 3 <= len(asked) <= most


# Torch waits 5 s for a loader process that was not told to end. With this number of seconds, the tests notice it.
TORCHS_WAIT = 100


def running(loader: Loader) -> list[int]:
    return [process.pid for process in loader._iterator._workers if process.is_alive()]  # type: ignore[attr-defined]


def test_close_ends_the_processes_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", TORCHS_WAIT)
    loader = Loader(opened(folder).train, endless(), processes=3, pin_memory=False)
    next(loader)
    processes = running(loader)
    assert len(processes) == 3
    start = time.monotonic()
    loader.close()
    loader.close()
    assert time.monotonic() - start < TORCHS_WAIT
    assert not any(Path(f"/proc/{pid}").exists() and state(pid) != "Z" for pid in processes)


def test_close_does_not_wait_for_a_lock_of_a_killed_process(folder: Path) -> None:
    """A loader process can be killed while it holds the lock of torch's event. Here, a thread takes its place."""
    loader = Loader(opened(folder).train, endless(), processes=1, pin_memory=False)
    next(loader)
    [process] = loader._iterator._workers  # type: ignore[attr-defined]
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    holder = threading.Thread(target=loader._iterator._workers_done_event._cond.acquire)  # type: ignore[attr-defined]
    holder.start()
    holder.join()
    closing = threading.Thread(target=loader.close, daemon=True)
    closing.start()
    closing.join(timeout=60)
    assert not closing.is_alive()


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


@pytest.mark.parametrize("ending", ["pass", "raise SystemExit(3)"])
def test_a_program_ends_at_once_and_in_silence(ending: str, folder: Path) -> None:
    program = f"""
import itertools, sys
import torch.utils.data
from app.data.loader import Loader
from app.data.sources import open_source
source = open_source(sys.argv[1], image_size=32, resize=36, augmentation="paper", seed=3)
loader = Loader(source.train, itertools.repeat([(0, 1)] * 8), processes=2, pin_memory=False)
next(loader)
torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL = {TORCHS_WAIT}
{ending}
"""
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", program, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TORCHS_WAIT)
    assert (done.returncode, done.stderr) == (3 if "3" in ending else 0, "")


def test_the_loader_processes_of_a_killed_program_end(folder: Path) -> None:
    """The loader processes, and the server from which they are forked, end when the training process is killed."""
    program = """
import itertools, multiprocessing, os, signal, sys
from app.data.loader import Loader
from app.data.sources import open_source
source = open_source(sys.argv[1], image_size=32, resize=36, augmentation="paper", seed=3)
loader = Loader(source.train, itertools.repeat([(0, 1)] * 8), processes=2, pin_memory=False)
for _ in range(2):  # so that each process has delivered a batch
    next(loader)
print(*[process.pid for process in multiprocessing.active_children()], flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", program, str(folder)]
    training = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert training.stdin and training.stdout
    loaders = [psutil.Process(int(pid)) for pid in training.stdout.readline().split()]
    assert len(loaders) == 2 and {each.ppid() for each in loaders} == {loaders[0].ppid()} != {training.pid}
    server = psutil.Process(loaders[0].ppid())
    training.kill()
    training.wait()
    training.stdin.close()
    training.stdout.close()
    gone, left = psutil.wait_procs([*loaders, server], timeout=60)
    for process in left:
        process.kill()
    assert len(gone) == 3


def test_a_loader_process_outlives_the_signals_of_the_job(folder: Path) -> None:
    with Loader(opened(folder).train, endless(), processes=2, pin_memory=False) as loader:
        for _ in range(2):  # so that each process has delivered a batch
            next(loader)
        processes = running(loader)
        servers = {int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1]) for pid in processes}
        assert len(servers) == 1 and os.getpid() not in servers
        for pid in [*processes, *servers]:
            for number in SIGNALS:
                os.kill(pid, number)
        for _ in range(30):
            next(loader)
        assert running(loader) == processes


def test_a_killed_loader_process_is_an_error_and_no_hang(folder: Path) -> None:
    with Loader(opened(folder).train, endless(), processes=2, pin_memory=False) as loader:
        next(loader)
        os.kill(running(loader)[0], signal.SIGKILL)
        start = time.monotonic()
        with pytest.raises(RuntimeError, match=r"a loader process died .*out of memory"):
            for _ in range(10_000):
                next(loader)
        assert time.monotonic() - start < 15


@pytest.mark.parametrize("processes", [0, 2])
def test_a_corrupt_image_arrives_as_itself_when_its_batch_is_due(processes: int, folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "broken"
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        for label in ("a", "b"):
            (root / split / label).symlink_to(folder / split / label)
    (root / "train/b").unlink()
    (root / "train/b").mkdir()
    for image in (folder / "train/b").iterdir():
        data = image.read_bytes()
        (root / "train/b" / image.name).write_bytes(data[: len(data) // 2] if image.name == "05.jpg" else data)
    batches = [[(0, index) for index in range(first, first + 6)] for first in range(0, 2 * IMAGES, 6)]
    loader = Loader(opened(root).train, iter(batches), processes=processes, pin_memory=False)
    for number in range(4):
        assert len(next(loader)[1]) == 6, number
    with pytest.raises(CorruptImage) as caught:
        next(loader)
    assert type(caught.value) is CorruptImage
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"cannot decode the image {root}/train/b/05.jpg: ")
    loader.close()


def test_default_number_of_processes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(24))
    in_memory = SimpleNamespace(train=SimpleNamespace(in_memory=True))
    assert default_loader_processes(in_memory, 1) == 0  # type: ignore[arg-type]
    source = opened(folder)
    assert [default_loader_processes(source, local) for local in (1, 2, 8, 24, 100)] == [16, 12, 3, 1, 1]


def test_the_time_waited_is_counted() -> None:
    class Slow(ArraySplit):
        def images_of(self, epochs: NDArray[np.int64], indices: NDArray[np.int64]) -> NDArray[np.uint8]:
            time.sleep(0.05)
            return super().images_of(epochs, indices)

    split = Slow(np.zeros((4, 2, 2, 1), np.uint8), np.zeros(4, np.int64))
    with Loader(split, [[(0, 0)], [(0, 1)], [(0, 2)]], processes=0, pin_memory=False) as loader:
        next(loader)
        next(loader)
        assert loader.waited >= 0.1
        waited = loader.waited
        time.sleep(0.1)
        assert loader.waited == waited


def test_shared_memory_too_small_is_said_with_the_fix() -> None:
    size = os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize
    image_bytes = size // (2 * PREFETCH * 32)
    check_shared_memory(0, 32, 224 * 224 * 3)
    check_shared_memory(2, 32, image_bytes)
    with pytest.raises(UserError, match=rf"may need {size * 3 // 2 >> 20} MiB: docker run --shm-size \d+g, or give"):
        check_shared_memory(3, 32, image_bytes)


def test_doctor_asks_for_enough_shared_memory_for_8_loader_processes() -> None:
    assert SHM_PER_SLOT >= 8 * PREFETCH * 32 * (224 * 224 * 3)


def test_a_long_path_of_temporary_files(folder: Path, tmp_path: Path) -> None:
    """A socket of multiprocessing in such a folder would have a path of more than 107 bytes."""
    long = tmp_path / ("x" * 100)
    long.mkdir()
    program = f"""if True:
        from app.data.loader import Loader
        from app.data.sources import open_source
        if __name__ == "__main__":
            split = open_source({str(folder)!r}, image_size=32, resize=36, augmentation="paper", seed=3).train
            with Loader(split, [[(0, 0), (0, 1)]], processes=1, pin_memory=False) as loader:
                print(tuple(next(loader)[0].shape))
    """
    script = tmp_path / "program.py"
    script.write_text(program)
    environ = os.environ | {"TMPDIR": str(long), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], env=environ, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("(2, 32, 32, 3)\n", 0), done.stderr
