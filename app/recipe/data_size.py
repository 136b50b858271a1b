"""Facts about a config's data set that need no reading of images: its size, and whether a run can start with it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from app.data.sources import IMAGE_SIZE, DataOptions, DataSize, default_resize, find_data_set, fixed_size, size_of
from app.recipe import paper
from app.recipe.config import Config
from app.recipe.plan import check_processes, make_plan

IMAGENET = "imagenet"  # the value of `data` in presets for ImageNet; a run needs the path of a folder instead


def data_options(config: Config) -> DataOptions:
    """Return the options of a config that concern the data."""
    return DataOptions(**{f.name: getattr(config, f.name) for f in fields(DataOptions)})


def data_size(config: Config) -> DataSize:
    """Return the size of a config's data set.

    If the data set is "imagenet" and there is no folder of this name, the size is that of ImageNet-1k.

    Raises:
        UserError: The folder cannot be listed.
    """
    if config.data == IMAGENET and not Path(IMAGENET).is_dir():
        side = image_size(config)
        return DataSize(paper.TRAINING_IMAGES, paper.VALIDATION_IMAGES, paper.CLASSES, 3, side)
    return size_of(data_options(config))


def check_start(config: Config, processes: int) -> None:
    """Raise UserError for faults that the processes of a run would find at their start.

    Faults that can only be found by reading the images are not found here.

    Args:
        config: The config of the run.
        processes: The number of processes.
    """
    size = find_data_set(data_options(config))
    check_processes(make_plan(config, size.images, size.validation_images), config, processes)


def image_size(config: Config) -> int:
    """Return the side in pixels of the images that the network gets, without looking at the data."""
    fixed = fixed_size(config.data)
    return config.image_size or (fixed.image_size // config.downsample if fixed else IMAGE_SIZE)


def resize(config: Config) -> int:
    """Return the shorter side in pixels to which validation images are resized before their central crop."""
    return config.resize or default_resize(image_size(config))
