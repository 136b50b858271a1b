"""The readers that benchmarks/storage.py compares.

Each reader can read files without decoding them, and can read minibatches of 64 crops of 224 x 224 pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from app.storage.index import read_index

BATCH, SIDE = 64, 224
BUFFER = 1000  # size of WebDataset's shuffle buffer in images, as in its documentation


def layout_of(reader: str) -> str:
    """Return the name of the subfolder that a reader reads."""
    return {"ours, folder": "folder", "ours, official archives": "official", "ours, shards": "shards"}.get(
        reader, "folder" if reader == "ImageFolder" else "shards"
    )


def our_files(root: Path, processes: int, process: int) -> Iterator[int]:
    """Return an iterator that reads this process's share of the images in random order, and yields 1 for each image.

    The list of images is made before the function returns, so its time is not measured.
    """
    files = read_index(str(root)).train
    order = np.random.default_rng(0).permutation(len(files))[process::processes].tolist()
    return (min(1, len(files.read(place))) for place in order)


def torchvision_files(root: Path, processes: int, process: int) -> Iterator[int]:
    """Return an iterator as `our_files` does, which reads with torchvision's ImageFolder."""
    from torchvision.datasets import ImageFolder

    dataset = ImageFolder(str(root / "train"), loader=lambda path: Path(path).read_bytes())
    order = np.random.default_rng(0).permutation(len(dataset))[process::processes].tolist()
    return (min(1, len(dataset[place][0])) for place in order)


def webdataset_files(root: Path, processes: int, process: int) -> Iterator[int]:
    """Return an iterator as `our_files` does, which reads with WebDataset.

    The shards are in random order, and images are shuffled within a buffer.
    """
    return (1 for _ in _webdataset(root, process, processes))


def _webdataset(root: Path, process: int = 0, processes: int = 1) -> Any:
    import webdataset

    shards = [str(path) for path in sorted(root.glob("train-*.tar"))][process::processes]
    return webdataset.WebDataset(shards, shardshuffle=len(shards)).shuffle(BUFFER)


@contextmanager
def our_batches(root: Path, processes: int) -> Iterator[Iterator[int]]:
    """Yield an iterator that loads the minibatches of an epoch with the program's loader, and gives their sizes."""
    # Imported here, because processes that only read files do not need torch.
    from app.data.loader import Loader
    from app.data.sources import open_source

    source = open_source(str(root), image_size=SIDE, resize=256)
    order = np.random.default_rng(0).permutation(len(source.train)).tolist()
    batches = ([(0, place) for place in order[first : first + BATCH]] for first in range(0, len(order), BATCH))
    with Loader(source.train, batches, processes=processes, pin_memory=False) as loader:
        yield (len(labels) for _, labels in loader)


def _transforms() -> Any:
    from torchvision import transforms

    from app.data.sources import IMAGENET_MEAN, IMAGENET_STD

    steps = [transforms.RandomResizedCrop(SIDE), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    return transforms.Compose([*steps, transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)])


@contextmanager
def torchvision_batches(root: Path, processes: int) -> Iterator[Iterator[int]]:
    """Yield an iterator as `our_batches` does, for torchvision's ImageFolder and torch's DataLoader."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    dataset = ImageFolder(str(root / "train"), _transforms())
    yield (len(labels) for _, labels in DataLoader(dataset, BATCH, shuffle=True, num_workers=processes))


@contextmanager
def webdataset_batches(root: Path, processes: int) -> Iterator[Iterator[int]]:
    """Yield an iterator as `our_batches` does, for WebDataset's loader with the same transforms as torchvision's."""
    import webdataset

    dataset = _webdataset(root).decode("pil").to_tuple("jpg;jpeg;png", "cls").map_tuple(_transforms(), int)
    loader = webdataset.WebLoader(dataset.batched(BATCH), batch_size=None, num_workers=processes)
    yield (len(labels) for _, labels in loader)


READERS: dict[str, Callable[[Path, int, int], Iterator[int]]] = {
    "ours, folder": our_files,
    "ours, official archives": our_files,
    "ours, shards": our_files,
    "ImageFolder": torchvision_files,
    "webdataset": webdataset_files,
}
BATCHES: dict[str, Callable[[Path, int], AbstractContextManager[Iterator[int]]]] = {
    "ours, folder": our_batches,
    "ours, official archives": our_batches,
    "ours, shards": our_batches,
    "ImageFolder": torchvision_batches,
    "webdataset": webdataset_batches,
}
