"""Load a trained network from a run, a checkpoint or a state_dict, together with what is needed to use it."""

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
from app.trained.preprocessing import (
    NO_AVERAGES,
    NO_DATA,
    check_classes,
    found_facts,
    imagenet_names,
    read_preprocessing,
)
from app.training.checkpoint_files import read_any
from app.training.forward_pass import AUTOCAST, ForwardPass, set_arithmetic


@dataclass(frozen=True)
class TrainedNetwork:
    """A trained network, and what is needed to use it.

    Attributes:
        network: The network in evaluation mode on the CPU, with torch's batch normalisation. Its input is float [n,
            channels, image_size, image_size].
        config: The config of its run. For a network from a state_dict, only the fields about the network are correct.
        classes: The names of the classes.
        image_size: The side of the central crop in pixels.
        resize: The shorter side in pixels to which an image is resized before the crop.
        mean, std: The values by which each channel is normalised, for pixels between 0 and 1.
        data: The data set on which it was trained, or "" if this is not known.
        classes_known: Whether the checkpoint, or the JSON file next to the state_dict, contains the names of the
            classes.
        average: The network with averaged weights if the run had --ema, otherwise None.
    """

    network: nn.Module
    config: Config
    classes: tuple[str, ...]
    image_size: int
    resize: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    data: str = ""
    classes_known: bool = True
    average: nn.Module | None = None

    def averaged(self) -> TrainedNetwork:
        """Return a copy with the averaged weights as its network. Raises UserError if the run did not have --ema."""
        if self.average is None:
            raise UserError(NO_AVERAGES)
        return replace(self, network=self.average)

    @property
    def channels(self) -> int:
        return len(self.mean)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.network.parameters()).dtype

    def forward_pass(self, device: torch.device) -> ForwardPass:
        """Return an object that computes the network on a device, with the normalisation and precision of its run."""
        set_arithmetic(self.config)
        mean, std = (torch.tensor(values, device=device, dtype=self.dtype) for values in (self.mean, self.std))
        return ForwardPass(mean, std, AUTOCAST.get(self.config.precision), self.config.channels_last)

    def read(self, path: str) -> Tensor:
        """Return the pixels of an image file, resized and cropped as in validation, uint8 [1, h, w, channels].

        Raises:
            CorruptImage: The file cannot be decoded.
        """
        size = self.image_size
        pixels = read_image(path, lambda width, height: central_crop(width, height, self.resize, size), size)
        if self.channels == 1:
            pixels = to_grey(pixels)
        return torch.from_numpy(pixels.copy())[None]

    @torch.inference_mode()
    def predict(self, path: str | Path, top: int = 5) -> list[tuple[str, float]]:
        """Return the most probable classes of an image file.

        Args:
            path: The image file.
            top: The largest number of classes to return.

        Returns:
            Pairs of a class and its probability, the most probable first.

        Raises:
            CorruptImage: The file cannot be decoded.
        """
        logits = self.forward_pass(torch.device("cpu")).logits(self.network, self.read(str(path)))[0]
        names = in_words(self.classes, self.data)
        best = logits.float().softmax(0).topk(min(top, len(names)))
        return [(names[int(i)], float(p)) for p, i in zip(*best, strict=True)]

    def description(self) -> dict[str, Any]:
        """Return what is known about the network except the values of its weights, as plain values."""
        tensors = [f"{name} {tensor.dtype} {list(tensor.shape)}" for name, tensor in self.network.state_dict().items()]
        return self.preprocessing() | {"precision": self.config.precision, "tensors": tensors}

    def preprocessing(self) -> dict[str, Any]:
        """Return how to prepare an image, and the names of the classes, as a JSON object."""
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
    """Return the network in a run's folder, in a checkpoint, or in a file with a state_dict.

    The state_dict must have torchvision's names, and its file the suffix .pt, .pth or .safetensors. Its classes and
    normalisation are read from the JSON file that `export` writes next to it. Without such a file, the normalisation of
    ImageNet is used, and the names of ImageNet's classes if there are 1,000 classes, otherwise numbers.

    Raises:
        UserError: The file or folder contains none of these.
    """
    path = Path(name)
    content = read_any(path, print)
    return from_checkpoint(content) if "format" in content else from_weights(content, path)


def from_checkpoint(content: dict[str, Any]) -> TrainedNetwork:
    """Return the network in a checkpoint of this program. Raises UserError if the checkpoint has wrong values."""
    config = _config_of(content)
    size = content["image_size"]
    trained = TrainedNetwork(
        network=rebuild(content["model"], config),
        config=config,
        classes=tuple(content["classes"]),
        image_size=size,
        resize=(config.resize or default_resize(size)) if is_folder(config.data) else size,
        mean=tuple(content["mean"]),
        std=tuple(content["std"]),
        data=config.data,
        average=rebuild(content["average"]["model"], config) if content.get("average") else None,
    )
    weights = content["model"]
    if (len(weights["fc.weight"]), weights["conv1.weight"].shape[1]) != (len(trained.classes), trained.channels) or (
        len(trained.std) != trained.channels
    ):
        raise UserError("the checkpoint's network has other numbers of classes or channels than the checkpoint says")
    return trained


def _config_of(content: dict[str, Any]) -> Config:
    """Return the config of a checkpoint. Raises UserError if its values have wrong types."""
    try:
        return from_dict(content["config"])
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UserError(f"the checkpoint's config has values of wrong types ({' '.join(str(error).split())})") from None


def from_weights(content: dict[str, Any], path: Path) -> TrainedNetwork:
    """Return the network in a state_dict.

    The state_dict may be inside a dictionary, and its names may have prefixes, as in the files of many training
    scripts.

    Args:
        content: The content of the file.
        path: The path of the file.

    Raises:
        UserError: There is no state_dict, or the JSON file next to it does not fit the weights.
    """
    weights = state_dict_of(content, path)
    model = architecture(weights, path)
    facts = found_facts(path)
    known = read_preprocessing(facts) if facts else {}
    if weights["fc.weight"].ndim != 2 or weights["conv1.weight"].ndim != 4:
        raise UserError(f"{path} is not a state_dict of torchvision's ResNets: its layers have other shapes")
    count, channels = len(weights["fc.weight"]), weights["conv1.weight"].shape[1]
    if not known and channels != 3:
        raise UserError(
            f"{path} is for images with {channels} channel(s), not 3: put the .json of its export next to it"
        )
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
        raise UserError(f"{facts} describes another network than {path}: remove it, or export again")
    return trained


def architecture(weights: dict[str, Any], path: Path) -> str:
    """Return the name of the network to which a state_dict belongs. Raises UserError if it belongs to none."""
    name = recognise(weights)
    if not name or not {"conv1.weight", "fc.weight"} <= set(weights):
        raise UserError(f"{path} is not a state_dict of torchvision's ResNets: its first names are {list(weights)[:3]}")
    return name


def rebuild(weights: dict[str, Tensor], config: Config) -> nn.Module:
    """Return the network of a config with the given weights and torch's batch normalisation, in evaluation mode.

    Raises UserError if the weights do not fit the network.
    """
    try:
        channels, classes = weights["conv1.weight"].shape[1], len(weights["fc.weight"])
        network = make_network(config, channels, classes, partial(nn.BatchNorm2d, eps=config.bn_eps))
        network.to(weights["fc.weight"].dtype).load_state_dict(weights)
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, MemoryError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[-1].strip()
        raise UserError(f"the weights belong to another network than {config.model}: {reason}") from None
    return network.eval()


def in_words(classes: tuple[str, ...], data: str) -> tuple[str, ...]:
    """Return the names of classes with their description in words, if it is known.

    The file classes.json in the folder `data` gives the description of each class. Without this file, only the classes
    of ImageNet have descriptions.
    """
    words = {}
    with contextlib.suppress(OSError, ValueError, RecursionError):
        read = json.loads((Path(data) / "classes.json").read_text())
        words = read if isinstance(read, dict) else {}
    if not words and len(classes) == 1000 and all(re.fullmatch(r"n\d{8}", name) for name in classes):
        words = dict(zip(classes, imagenet_names(), strict=True))
    return tuple(f"{words[name]} ({name})" if name in words else name for name in classes)


def validation_source(trained: TrainedNetwork, data: str, image_size: int, resize: int, skip_list: str) -> Source:
    """Return the data set on which a network is evaluated.

    Args:
        trained: The network.
        data: The name or folder of the data set, or "" for the data set of the network's training.
        image_size: The side of the central crop in pixels, or 0 for that of `trained`.
        resize: The shorter side in pixels to which an image is resized before the crop, or 0 for the same ratio to
            `image_size` as in `trained`.
        skip_list: The file that lists images to leave out, or "" to leave none out.

    Raises:
        UserError: The data set does not fit the network.
    """
    name = data or trained.data
    if not name:
        raise UserError(NO_DATA)
    size = image_size or trained.image_size
    options = replace(
        data_options(trained.config), data=name, image_size=size,
        resize=resize or round(size * trained.resize / trained.image_size),
        augmentation="none", skip_list=skip_list, synthetic_classes=len(trained.classes),
    )  # fmt: skip
    source = open_data_set(options)
    if source.channels != trained.channels:
        raise UserError(
            f"{name} has images of {source.channels} channels, but the network was trained on {trained.channels}"
        )
    check_classes(name, source.classes, trained.classes, trained.classes_known)
    return source
