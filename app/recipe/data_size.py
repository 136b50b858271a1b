"""What is known of a config's data set without reading its images: its size, and whether a run on it can start."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from app.data.sources import IMAGE_SIZE, DataOptions, DataSize, default_resize, find_data_set, fixed_size, size_of
from app.recipe import paper
from app.recipe.config import Config
from app.recipe.plan import check_processes, make_plan

IMAGENET = "imagenet"  # the data set of presets for ImageNet, for which a folder must be given


def data_options(config: Config) -> DataOptions:
    """Return the options about the data of a config."""
    return DataOptions(**{f.name: getattr(config, f.name) for f in fields(DataOptions)})


def data_size(config: Config) -> DataSize:
    """Return the size of a config's data set. `imagenet` is ImageNet-1k if there is no folder of this name.

    Raises UserError if a folder cannot be listed.
    """
    if config.data == IMAGENET and not Path(IMAGENET).is_dir():
        side = image_size(config)
        return DataSize(paper.TRAINING_IMAGES, paper.VALIDATION_IMAGES, paper.CLASSES, 3, side)
    return size_of(data_options(config))


def check_start(config: Config, processes: int) -> None:
    """Raise UserError for faults that the processes of a run would find at their start.

    Faults that only reading the images can show are not found.
    """
    size = find_data_set(data_options(config))
    check_processes(make_plan(config, size.images, size.validation_images), config, processes)


def image_size(config: Config) -> int:
    """Return the side in pixels of the images that the network sees, without looking at the data."""
    fixed = fixed_size(config.data)
    return config.image_size or (fixed.image_size // config.downsample if fixed else IMAGE_SIZE)


def resize(config: Config) -> int:
    """Return the shorter side in pixels before the central crop of validation."""
    return config.resize or default_resize(image_size(config))
