"""Read weights from files, recognise their network, and load them into a network before training."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from app.base.errors import UserError
from app.base.text import some
from app.recipe.models import MODELS, Architecture

PREFIXES = re.compile(r"^((module|_orig_mod)\.)+")  # DataParallel and torch.compile add these to the names of tensors
LAST_LAYER = "fc"  # the name of the last layer in the ResNets of torchvision, of timm and of this program
# The name of BN's counter of steps. The counter is not loaded, because files of old versions of torch lack it.
COUNTER = "num_batches_tracked"

# The number of blocks in each stage, and the numbers of outputs and inputs in the first 3x3 convolution of a bottleneck
# block. The second part is None for a network without such blocks.
Form = tuple[tuple[int, ...], tuple[int, int] | None]


def form(entry: Architecture) -> Form:
    """Return the numbers of blocks and channels of a network, by which its weights are recognised."""
    width = entry.groups * entry.width_per_group
    return entry.blocks, (width, width // entry.groups) if entry.convolutions == 3 else None


ARCHITECTURES = {form(entry): name for name, entry in MODELS.items()}


def read_file(path: Path) -> dict[str, Any]:
    """Return the content of a .safetensors file, or of a file that torch.save wrote.

    Raises:
        UserError: The file cannot be read, or it contains more than tensors and plain values.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except Exception as error:  # a damaged file makes torch raise many kinds of errors
        raise UserError(
            f"{path} holds no tensors that can be read safely ({type(error).__name__}):"
            " give a file of weights, and copy it again if it is incomplete"
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no state_dict but a {type(content).__name__}")
    return content


def is_plain(value: object) -> bool:
    """Return whether a value is an ordinary tensor in memory, and the file contains each of its elements.

    A file of a kilobyte can hold a tensor that repeats one element a billion times. A copy of it would fill the memory.
    """
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.device.type != "cpu":
        return False
    if value.is_nested or value.is_quantized or value.is_conj() or value.is_neg():
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def state_dict_of(content: dict[str, Any], path: Path) -> dict[str, Tensor]:
    """Return the state_dict in the content of a file, without the PREFIXES that some programs add to the names.

    The state_dict may be inside a dictionary, under "state_dict" or "model", as many training scripts write it.

    Args:
        content: The content of the file.
        path: The path of the file, for messages.

    Raises:
        UserError: The content has no state_dict.
    """
    nested = content.get("state_dict", content.get("model", content))
    if not isinstance(nested, dict) or not all(map(is_plain, nested.values())):
        raise UserError(f"{path} holds no state_dict: give one of names and tensors, as torch.save(net.state_dict())")
    return {PREFIXES.sub("", str(name)): value for name, value in nested.items()}


def recognise(weights: dict[str, Tensor]) -> str:
    """Return the name of the network to which a state_dict belongs, or "" if this program has no such network."""
    found = {re.match(r"layer(\d+)\.(\d+)\.", name) for name in weights}
    blocks = {(int(m[1]), int(m[2])) for m in found if m}
    stages = tuple(sum(1 for s, _ in blocks if s == stage) for stage in sorted({s for s, _ in blocks}))
    convolution = None
    if "layer1.0.conv3.weight" in weights and "layer1.0.conv2.weight" in weights:
        outputs, inputs, *_ = (*weights["layer1.0.conv2.weight"].shape, 0, 0)
        convolution = outputs, inputs
    return ARCHITECTURES.get((stages, convolution), "")


@torch.no_grad()
def load_weights(network: nn.Module, weights: dict[str, Tensor], model: str, path: Path) -> str:
    """Load weights into a network, but not into its last layer if the file has none or another number of classes.

    Args:
        network: The network before its training.
        weights: A state_dict with torchvision's names.
        model: The name of the network.
        path: The file of the weights, for messages.

    Returns:
        A line of text that says what was loaded.

    Raises:
        UserError: A tensor is missing, is unknown, or has another shape. The network is not changed.
    """
    own, given = (
        {name: value for name, value in tensors.items() if not name.endswith(COUNTER)}
        for tensors in (network.state_dict(), weights)
    )
    classes = len(own[f"{LAST_LAYER}.bias"])
    here = [f"{LAST_LAYER}.weight", f"{LAST_LAYER}.bias"]
    there = given.get(here[0])
    said = ""
    if there is None and here[1] not in given:
        said = f"as {path.name} has none"
    elif there is not None and there.ndim == 2 and len(there) != classes:
        said = f"as {path.name} has {len(there):,} classes and the data has {classes:,}"
    if said:
        for name in here:
            del own[name]
            given.pop(name, None)
    if wrong := differences(own, given):
        raise UserError(f"--init {path} does not fit {model}: {'; '.join(wrong)}: {remedy(weights, own, model)}")
    for name, value in own.items():
        value.copy_(given[name])
    text = f"start: {len(own)} tensors of {model} are from {path}"
    return f"{text}; the last layer is new, {said}" if said else text


def differences(own: dict[str, Tensor], given: dict[str, Tensor]) -> list[str]:
    """Return texts that say how the names and shapes of the tensors in `given` differ from those in `own`."""
    missing = [name for name in own if name not in given]
    unknown = [name for name in given if name not in own]
    reshaped = [
        f"{name} is {shape(given[name])} and not {shape(own[name])}"
        for name in own
        if name in given and given[name].shape != own[name].shape
    ]
    cases = (("it lacks ", missing), ("it also has ", unknown), ("", reshaped))
    return [intro + some(names) for intro, names in cases if names]


def remedy(weights: dict[str, Tensor], own: dict[str, Tensor], model: str) -> str:
    """Return what the user can do about weights that do not fit a network, for a message."""
    other, first = recognise(weights), "conv1.weight"
    if other not in ("", model):
        return f"the file contains a {other}: give --model {other}"
    if first in weights and weights[first].ndim == 4 and weights[first].shape[1] != own[first].shape[1]:
        theirs, ours = weights[first].shape[1], own[first].shape[1]
        grey = "; for images in a folder, " + ("add --grey" if theirs == 1 else "leave out --grey")
        return f"the file is for images of {theirs} channels and the data has {ours}" + grey * (
            {theirs, ours} == {1, 3}
        )
    return "give another file"


def shape(tensor: Tensor) -> str:
    """Return the shape of a tensor as text: `64 x 3 x 7 x 7`, or `a number` for a scalar."""
    return " x ".join(map(str, tensor.shape)) or "a number"
