"""Read minibatches of JPEGs with the program's loader or with torchvision's, each with two loader processes."""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import datasets, transforms
from torchvision.transforms.functional import resized_crop

from app.data.crop_decoder import decode_region
from app.data.draws import uniform
from app.data.images import CROP_DRAWS, open_image, random_crop, read_image
from app.data.loader import Loader
from app.data.sources import IMAGENET_MEAN, IMAGENET_STD, open_source
from app.storage.index import read_index
from benchmarks.meter import Meter

BATCH, PROCESSES, SIDE = 64, 2, 224


def difference(folder: str) -> float:
    """Return the mean absolute difference between the program's and torchvision's pixels for 50 random crops.

    The difference is in units of the normalised pixels that a network gets.
    """
    generator = np.random.default_rng(1)
    files = read_index(folder).train
    differences = []
    for index in generator.integers(0, len(files), 50).tolist():
        image = Image.open(files.place(index)).convert("RGB")
        width, height = (int(generator.integers(side // 4, side)) for side in image.size)
        left, top = generator.integers(0, image.width - width), generator.integers(0, image.height - height)
        theirs = np.asarray(resized_crop(image, int(top), int(left), height, width, [SIDE, SIDE]), np.float32)
        box = (float(left), float(top), float(left + width), float(top + height))
        found = read_image(files.place(index), lambda w, h, box=box: box, SIDE).astype(np.float32)
        differences.append((np.abs(found - theirs) / 255 / np.array(IMAGENET_STD)).mean())
    return float(np.mean(differences))


def decoder_limit(folder: str) -> float:
    """Return how many random crops app/setup/decoder.c decodes per second of processor time, without any other work.

    This is 0 if the decoder is not compiled.
    """
    files = read_index(folder).train
    indices = np.arange(min(len(files), 400))
    images, taken = 0, 0.0
    for index, draws in zip(indices.tolist(), uniform(0, 0, indices, CROP_DRAWS).tolist(), strict=True):
        data = files.read(index)
        with open_image(data) as image:
            size = image.size
        left, top, right, bottom = map(int, random_crop(*size, draws))
        start = time.process_time()
        images += decode_region(data, size, (left, top, right, bottom)) is not None
        taken += time.process_time() - start
    return images / taken


def our_batches(folder: str) -> Any:
    source = open_source(folder, image_size=SIDE)
    order = np.random.default_rng(0).integers(0, len(source.train), (10**5, BATCH))
    batches = ([(0, int(i)) for i in indices] for indices in order)
    return Loader(source.train, batches, processes=PROCESSES, pin_memory=False)


def their_batches(folder: str) -> Any:
    steps = [
        transforms.RandomResizedCrop(SIDE),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
    ]
    dataset = datasets.ImageFolder(folder + "/train", transforms.Compose(steps))
    while True:
        yield from DataLoader(dataset, BATCH, shuffle=True, num_workers=PROCESSES)


def main(side: str, folder: str) -> None:
    torch.set_num_threads(1)
    batches = iter(our_batches(folder) if side == "ours" else their_batches(folder))
    next(batches)
    meter = Meter()
    while True:
        meter.tick()
        next(batches)


if __name__ == "__main__":
    main(*sys.argv[1:])
