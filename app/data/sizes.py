"""How large a data set is, without reading its images: what `plan` and `audit` need of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from app.recipe import paper
from app.recipe.config import Config


@dataclass(frozen=True)
class DataSize:
    """Numbers of images and classes; `channels` and side of the images that the network sees."""

    images: int
    validation_images: int
    classes: int
    channels: int
    image_size: int


FIXED = {
    "digits": DataSize(1437, 360, 10, 1, 8),
    "cluttered-digits": DataSize(16_384, 4_000, 10, 1, 20),
    "fashion-mnist": DataSize(60_000, 10_000, 10, 1, 28),
    "mnist": DataSize(60_000, 10_000, 10, 1, 28),
    "kmnist": DataSize(60_000, 10_000, 10, 1, 28),
    "cifar10": DataSize(50_000, 10_000, 10, 3, 32),
}


def data_size(config: Config) -> DataSize:
    """The size of a config's data; `imagenet`, the presets' word for a folder to be given, is ImageNet-1k.

    Raises UserError for a folder that cannot be listed.
    """
    if config.data in FIXED:
        size = FIXED[config.data]
        return replace(size, image_size=size.image_size // config.downsample)
    side = config.image_size or paper.IMAGE_SIZE
    if config.data == "imagenet":
        return DataSize(paper.TRAINING_IMAGES, paper.VALIDATION_IMAGES, paper.CLASSES, 3, side)
    if config.data == "synthetic":
        images = config.synthetic_images
        return DataSize(images, max(1, images // 25), config.synthetic_classes, 3, side)
    from app.data.index import read_index
    from app.data.skip_list import leave_out

    index = read_index(config.data)
    if config.skip_list:
        index, _ = leave_out(index, config.skip_list)
    return DataSize(len(index.train), len(index.validation), len(index.classes), 3, side)
