"""A trained network with all that its users must know, from whatever file holds it."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from app.base.errors import UserError
from app.data.images import central_crop, read_image, to_grey
from app.data.sources import IMAGE_SIZE, IMAGENET_MEAN, IMAGENET_STD, Source, default_resize, is_folder, open_data_set
from app.model.networks import make_network
from app.model.weights import recognise, state_dict_of
from app.recipe.config import Config, from_dict
from app.recipe.data_size import data_options
from app.training.checkpoint import is_list_of
from app.training.checkpoint_files import read_any
from app.training.forward_pass import AUTOCAST, ForwardPass


@dataclass(frozen=True)
class TrainedNetwork:
    """network: with plain batch normalisation, in evaluation mode, on the CPU. An image goes in as float [n, channels,
    image_size, image_size], its shorter side made `resize` first, from [0, 1] normalised by mean and std (by channel).
    data: what it was trained on, "" where the file does not say; config: of its run, else of the network only.
    classes_known: whether the file, or the .json next to it, says what the classes are."""

    network: nn.Module
    config: Config
    classes: tuple[str, ...]
    image_size: int
    resize: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    data: str = ""
    classes_known: bool = True

    @property
    def channels(self) -> int:
        return len(self.mean)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.network.parameters()).dtype

    def forward_pass(self, device: torch.device) -> ForwardPass:
        """As validation computed while it was trained."""
        mean, std = (torch.tensor(values, device=device, dtype=self.dtype) for values in (self.mean, self.std))
        return ForwardPass(mean, std, AUTOCAST.get(self.config.precision), self.config.channels_last)

    def read(self, path: str) -> Tensor:
        """An image file as validation would see it, uint8 [1, h, w, channels]. Raises CorruptImage."""
        size = self.image_size
        pixels = read_image(path, lambda width, height: central_crop(width, height, self.resize, size), size)
        if self.channels == 1:
            pixels = to_grey(pixels)
        return torch.from_numpy(pixels.copy())[None]

    def preprocessing(self) -> dict[str, Any]:
        """What to do to an image, and what the outputs mean, for programs."""
        return {
            "model": self.config.model,
            "channels": self.channels,
            "resize": self.resize,
            "image_size": self.image_size,
            "mean": list(self.mean),
            "std": list(self.std),
            "classes": list(self.classes),
            "names": list(in_words(self.classes, self.data)),
        }


def load(name: str) -> TrainedNetwork:
    """A run's folder, a checkpoint, or a state_dict with torchvision's names (.pt, .pth, .safetensors).

    Raises UserError for anything else. A state_dict's classes and normalisation are those of the .json next to it, as
    `export` writes it, else ImageNet's.
    """
    path = Path(name)
    content = read_any(path, print)
    return from_checkpoint(content) if "format" in content else from_weights(content, path)


def from_checkpoint(content: dict[str, Any]) -> TrainedNetwork:
    """The network of a checkpoint of this program. Raises UserError."""
    config = _config_of(content)
    size = content["image_size"]
    return TrainedNetwork(
        network=rebuild(content["model"], config),
        config=config,
        classes=tuple(content["classes"]),
        image_size=size,
        resize=(config.resize or default_resize(size)) if is_folder(config.data) else size,
        mean=tuple(content["mean"]),
        std=tuple(content["std"]),
        data=config.data,
    )


def _config_of(content: dict[str, Any]) -> Config:
    """Return the config of a checkpoint. Raises UserError."""
    try:
        return from_dict(content["config"])
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UserError(f"the checkpoint's config has values of other kinds ({' '.join(str(error).split())})") from None


def from_weights(content: dict[str, Any], path: Path) -> TrainedNetwork:
    """The network of a bare state_dict, also as training scripts nest and prefix it. Raises UserError."""
    weights = state_dict_of(content, path)
    model = architecture(weights, path)
    beside = path.with_suffix(".json")
    known = read_beside(beside) if beside.is_file() else {}
    if weights["fc.weight"].ndim != 2 or weights["conv1.weight"].ndim != 4:
        raise UserError(f"{path} is no state_dict of torchvision's ResNets: its layers have other shapes")
    count, channels = len(weights["fc.weight"]), weights["conv1.weight"].shape[1]
    if not known and channels != 3:
        raise UserError(f"{path} is of images with {channels} channel(s): put the .json of its export next to it")
    default = imagenet_names() if count == 1000 else map(str, range(count))
    config = Config(model=model, width=len(weights["conv1.weight"]))
    trained = TrainedNetwork(
        network=rebuild(weights, config),
        config=config,
        classes=tuple(known.get("classes", default)),
        image_size=known.get("image_size", IMAGE_SIZE),
        resize=known.get("resize", default_resize(IMAGE_SIZE)),
        mean=tuple(known.get("mean", IMAGENET_MEAN)),
        std=tuple(known.get("std", IMAGENET_STD)),
        classes_known=bool(known),
    )
    if len(trained.classes) != count or trained.channels != channels:
        raise UserError(f"{beside} is of another network than {path}: remove it, or export again")
    return trained


def architecture(weights: dict[str, Any], path: Path) -> str:
    """The name of the network that a state_dict is of. Raises UserError."""
    name = recognise(weights)
    if not name or not {"conv1.weight", "fc.weight"} <= set(weights):
        raise UserError(f"{path} is no state_dict of torchvision's ResNets: its first names are {list(weights)[:3]}")
    return name


def rebuild(weights: dict[str, Tensor], config: Config) -> nn.Module:
    """The plain network with these weights. Raises UserError where they are of another."""
    try:
        channels, classes = weights["conv1.weight"].shape[1], len(weights["fc.weight"])
        network = make_network(config, channels, classes, partial(nn.BatchNorm2d, eps=config.bn_eps))
        network.to(weights["fc.weight"].dtype).load_state_dict(weights)
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, MemoryError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[-1].strip()
        raise UserError(f"the weights are of another network than {config.model}: {reason}") from None
    return network.eval()


def read_beside(path: Path) -> dict[str, Any]:
    """The preprocessing that `export` left. Raises UserError."""
    try:
        known: dict[str, Any] = json.loads(path.read_text())
        found = {name: known[name] for name in ("classes", "image_size", "resize", "mean", "std")}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"{type(error).__name__} {error}"
    else:
        sizes = (found["image_size"], found["resize"])
        if (
            is_list_of(str, found["classes"])
            and all(is_list_of(float, found[name]) and found[name] for name in ("mean", "std"))
            and len(found["mean"]) == len(found["std"])
            and all(isinstance(size, int) and not isinstance(size, bool) for size in sizes)
            and 0 < sizes[0] <= sizes[1]
        ):
            return found
        reason = "its values are of other kinds"
    raise UserError(f"{path} is not what export writes ({reason}): export again, or remove it")


def imagenet_names() -> list[str]:
    """ImageNet's 1,000 classes in words, in the order of their WordNet ids."""
    from torchvision.models import ResNet50_Weights  # here, because this import takes about as long as torch's own

    return list(ResNet50_Weights.DEFAULT.meta["categories"])


def in_words(classes: tuple[str, ...], data: str) -> tuple[str, ...]:
    """The classes as shown to people: with the words of the data folder's classes.json (wnid -> words), if there."""
    words = {}
    with contextlib.suppress(OSError, ValueError, RecursionError):
        read = json.loads((Path(data) / "classes.json").read_text())
        words = read if isinstance(read, dict) else {}
    if not words and len(classes) == 1000 and all(re.fullmatch(r"n\d{8}", name) for name in classes):
        words = dict(zip(classes, imagenet_names(), strict=True))
    return tuple(f"{words[name]} ({name})" if name in words else name for name in classes)


def validation_source(trained: TrainedNetwork, data: str, image_size: int, resize: int, skip_list: str) -> Source:
    """The data to evaluate on, as the network was trained to see it where nothing else is said. Raises UserError."""
    name = data or trained.data
    if not name:
        raise UserError(
            "the weights do not say what they were trained on: give --data FOLDER, which holds train/ and val/"
        )
    size = image_size or trained.image_size
    options = replace(
        data_options(trained.config), data=name, image_size=size,
        resize=resize or round(size * trained.resize / trained.image_size),
        augmentation="none", skip_list=skip_list, synthetic_classes=len(trained.classes),
    )  # fmt: skip
    source = open_data_set(options)
    if source.channels != trained.channels:
        raise UserError(f"{name} has images of {source.channels} channels, the network takes {trained.channels}")
    if len(source.classes) != len(trained.classes):
        raise UserError(f"{name} has {len(source.classes)} classes, the network knows {len(trained.classes)}")
    known = {source.classes, tuple(imagenet_names()) if len(source.classes) == 1000 else ()}
    if trained.classes_known and trained.classes not in known:
        first = next(
            i for i, pair in enumerate(zip(source.classes, trained.classes, strict=True)) if pair[0] != pair[1]
        )
        raise UserError(
            f"{name} has other classes than the network was trained on: number {first} is {source.classes[first]},"
            f" it was {trained.classes[first]}"
        )
    return source
