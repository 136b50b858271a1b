"""The state of a run in a file that is complete whenever it exists."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from app.model.optimizer import momentum_buffers
from app.recipe.config import Config
from app.recipe.errors import UserError
from app.recipe.plan import Position
from app.training.state import State

FORMAT = 1


def model_state(network: nn.Module, iteration: int) -> dict[str, Tensor]:
    """The network's state_dict with torchvision's names and types, on the CPU."""
    state = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
    for name in state:
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(iteration)  # from the position, so equal on every number of processes
    return state


def snapshot(state: State, config: Config, iteration: int) -> dict[str, Any]:
    """The state copied to host memory, as plain types that `torch.load(weights_only=True)` reads."""
    return {
        "format": FORMAT,
        "model": model_state(state.network, iteration),
        "momentum": [buffer.cpu().clone() for buffer in momentum_buffers(state.optimizer)],
        "position": {"epoch": state.position.epoch, "seen": state.position.seen},
        "errors": [list(pair) for pair in state.errors],
        "config": asdict(config),
    }


def write(content: dict[str, Any], path: Path) -> None:
    """Writes a temporary file, syncs it and renames it: `path` is always a whole checkpoint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)  # the rename itself
    os.close(folder)


def read(path: Path) -> dict[str, Any]:
    """A checkpoint. Raises UserError where it cannot be read."""
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except Exception as error:
        raise UserError(f"{path} is no whole checkpoint ({type(error).__name__})") from None
    if content.get("format") != FORMAT:
        raise UserError(f"{path} has format {content.get('format')!r}, this version reads {FORMAT}")
    return content


def restore(state: State, content: dict[str, Any]) -> None:
    """Puts a checkpoint's content into a state. Raises UserError for another model's."""
    try:
        state.network.load_state_dict(content["model"])
    except RuntimeError as error:
        raise UserError(f"the checkpoint is of another model: {str(error).splitlines()[-1].strip()}") from None
    for buffer, value in zip(momentum_buffers(state.optimizer), content["momentum"], strict=True):
        buffer.copy_(value)
    state.position = Position(**content["position"])
    state.errors = [(top1, top5) for top1, top5 in content["errors"]]
