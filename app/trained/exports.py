"""Trained networks in the formats of other programs."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from app.base.errors import UserError
from app.trained.trained import TrainedNetwork

TOLERANCE = 1e-4  # between onnxruntime's logits and torch's


def weights_of(trained: TrainedNetwork) -> dict[str, Tensor]:
    """The state_dict with torchvision's names; floating point in 32 bits."""
    state = trained.network.state_dict()
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}


def write_state_dict(trained: TrainedNetwork, path: Path) -> None:
    torch.save(weights_of(trained), path)


def write_safetensors(trained: TrainedNetwork, path: Path) -> None:
    from safetensors.torch import save_file

    save_file(weights_of(trained), path, metadata={"format": "pt"})


def write_onnx(trained: TrainedNetwork, path: Path, opset: int) -> dict[str, Any]:
    """Writes the graph "images" [n, channels, size, size] -> "logits" [n, classes], normalised images in, for any n.

    Returns what to say of it. Raises UserError where onnxruntime computes something else than torch.
    """
    network = trained.network.float()
    shape = (trained.channels, trained.image_size, trained.image_size)
    torch.onnx.export(
        network, (torch.zeros(2, *shape),), path, input_names=["images"], output_names=["logits"], opset_version=opset,
        dynamic_shapes=({0: torch.export.Dim("n")},), dynamo=True, external_data=False, verbose=False,
    )  # fmt: skip
    difference = largest_difference(trained, path)
    if not difference <= TOLERANCE:
        raise UserError(f"{path} computes other logits than the network, by up to {difference:.2g}: do not use it")
    return {"opset": opset, "input": ["n", *shape], "largest_difference_to_torch": difference}


def largest_difference(trained: TrainedNetwork, path: Path) -> float:
    """Between the logits of onnxruntime and torch on a batch of 3, relative to the largest logit where that is > 1."""
    import onnxruntime

    images = torch.randn(3, trained.channels, trained.image_size, trained.image_size, generator=torch.Generator())
    with torch.inference_mode():
        expected = trained.network.float()(images).numpy()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"images": images.numpy()})
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))


def write_detectron2(trained: TrainedNetwork, path: Path) -> dict[str, Any]:
    """Writes a pickle as detectron2's own converter of torchvision's weights does; returns the config that it needs.

    The paper's transfer experiment (section 5.6) starts detectors from such a backbone. Raises UserError for networks
    that detectron2 does not have.
    """
    if not hasattr(trained.network, "layer4"):
        raise UserError(f"detectron2 has no {trained.config.model}: train a resnet18, 34, 50, 101 or 152 for it")
    model = {detectron2_name(name): value.numpy() for name, value in weights_of(trained).items()}
    with path.open("wb") as file:
        pickle.dump({"model": model, "__author__": "torchvision", "matching_heuristics": True}, file)
    return {
        "config": {
            "MODEL.PIXEL_MEAN": [255 * value for value in trained.mean],
            "MODEL.PIXEL_STD": [255 * value for value in trained.std],
            "MODEL.RESNETS.DEPTH": int(trained.config.model.removeprefix("resnet")),
            "MODEL.RESNETS.STRIDE_IN_1X1": False,
            "INPUT.FORMAT": "RGB",
        }
    }


def detectron2_name(name: str) -> str:
    """`layer1.0.downsample.1.bias` -> `res2.0.shortcut.norm.bias`."""
    first, *rest = name.split(".")
    path = [f"res{int(first[-1]) + 1}"] if first.startswith("layer") else ["stem", first]
    renamed = ".".join(path + rest).replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
    for number in "123":
        renamed = renamed.replace(f"bn{number}", f"conv{number}.norm")
    return renamed
