"""Write trained networks in the formats of other programs."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from app.base.errors import UserError
from app.base.files import write_whole
from app.recipe.models import MODELS
from app.trained.trained import TrainedNetwork

TOLERANCE = 1e-4  # the largest allowed difference between the logits of onnxruntime and torch


def write_file(path: Path, content: bytes | memoryview) -> None:
    """Write a file. If this fails, an earlier file at the same path does not change. Raises OSError."""
    write_whole(path.resolve(), lambda file: file.write(content))  # a link stays, and its target is written


def weights_of(trained: TrainedNetwork) -> dict[str, Tensor]:
    """Return the state_dict with torchvision's names. Its floating point tensors are float32."""
    state = trained.network.state_dict()
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}


def write_state_dict(trained: TrainedNetwork, path: Path) -> None:
    buffer = io.BytesIO()  # torch.save would report a full disk as RuntimeError, so Python writes the file
    torch.save(weights_of(trained), buffer)
    write_file(path, buffer.getbuffer())


def write_safetensors(trained: TrainedNetwork, path: Path) -> None:
    from safetensors.torch import save

    write_file(path, save(weights_of(trained), metadata={"format": "pt"}))


def write_onnx(trained: TrainedNetwork, path: Path, opset: int) -> dict[str, Any]:
    """Write the network as ONNX, and return the values to add to the JSON file that `export` writes next to it.

    The graph has the input "images", float32 [n, channels, size, size] with any n, and the output "logits", float32
    [n, classes]. The images must already be normalised.

    Raises:
        UserError: The logits of onnxruntime differ from those of torch by more than TOLERANCE.
    """
    network = trained.network.float()
    shape = (trained.channels, trained.image_size, trained.image_size)
    program = torch.onnx.export(
        network, (torch.zeros(2, *shape),), input_names=["images"], output_names=["logits"], opset_version=opset,
        dynamic_shapes=({0: torch.export.Dim("n")},), dynamo=True, verbose=False,
    )  # fmt: skip
    assert program is not None
    content = program.model_proto.SerializeToString()
    difference = largest_difference(trained, content)
    if not difference <= TOLERANCE:
        raise UserError(
            f"--output {path} is not written, because its logits would differ from the network's by up to"
            f" {difference:.2g}: try another --opset, or another format"
        )
    write_file(path, content)
    return {"opset": opset, "input": ["n", *shape], "largest_difference_to_torch": difference}


def largest_difference(trained: TrainedNetwork, content: bytes) -> float:
    """Return the largest difference between the logits of onnxruntime and of torch for three random images.

    `content` is the network as ONNX. If the largest absolute value of torch's logits is above 1, the difference is
    divided by this value.
    """
    import onnxruntime

    images = torch.randn(3, trained.channels, trained.image_size, trained.image_size, generator=torch.Generator())
    with torch.inference_mode():
        expected = trained.network.float()(images).numpy()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"images": images.numpy()})
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))


def write_detectron2(trained: TrainedNetwork, path: Path) -> dict[str, Any]:
    """Write the weights in the format that detectron2's converter makes from torchvision's weights.

    In section 5.6 of the paper, object detectors start from such weights.

    Returns:
        A dictionary with the key "config". Its value has the options of detectron2 that the weights need.

    Raises:
        UserError: detectron2 does not have the network.
    """
    if not hasattr(trained.network, "layer4"):
        raise UserError(f"detectron2 has no {trained.config.model}: export a resnet18, 34, 50, 101 or 152")
    model = {detectron2_name(name): value.numpy() for name, value in weights_of(trained).items()}
    write_file(path, pickle.dumps({"model": model, "__author__": "torchvision", "matching_heuristics": True}))
    entry = MODELS[trained.config.model]
    return {
        "config": {
            "MODEL.PIXEL_MEAN": [255 * value for value in trained.mean],
            "MODEL.PIXEL_STD": [255 * value for value in trained.std],
            "MODEL.RESNETS.DEPTH": entry.depth,
            "MODEL.RESNETS.NUM_GROUPS": entry.groups,
            "MODEL.RESNETS.WIDTH_PER_GROUP": entry.width_per_group,
            "MODEL.RESNETS.STRIDE_IN_1X1": False,
            "INPUT.FORMAT": "RGB",
        }
    }


def detectron2_name(name: str) -> str:
    """Return detectron2's name of a weight: `layer1.0.downsample.1.bias` becomes `res2.0.shortcut.norm.bias`."""
    first, *rest = name.split(".")
    path = [f"res{int(first[-1]) + 1}"] if first.startswith("layer") else ["stem", first]
    renamed = ".".join(path + rest).replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
    for number in "123":
        renamed = renamed.replace(f"bn{number}", f"conv{number}.norm")
    return renamed
