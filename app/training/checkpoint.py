"""Convert the state of a run to plain data and back, and check such data."""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from app.base.errors import UserError
from app.base.values import is_list_of
from app.model.moving_average import MovingAverage
from app.model.optimizer import momentum_buffers
from app.model.weights import is_plain
from app.recipe.plan import Position
from app.runs.run import Run
from app.training.state import State

FORMAT = 1


def snapshot(state: State, run: Run) -> dict[str, Any]:
    """Copy the state to host memory, as plain types that `torch.load(weights_only=True)` can read.

    "model" is a state_dict with torchvision's names. "momentum" is a list in the optimizer's order of parameters.
    "average" exists only with --ema. It contains the state_dict and the validation errors of the averaged network.
    """
    iteration = run.plan.iteration_at(state.position)
    content = {
        "format": FORMAT,
        "model": model_state(state.network.state_dict(), iteration),
        "momentum": [buffer.to("cpu", copy=True) for buffer in momentum_buffers(state.optimizer)],
        "loss_scale": [value.item() for value in state.loss_scale.tensors()] if state.loss_scale else [],
        "position": state.position._asdict(),
        "errors": [list(pair) for pair in state.errors],
        "config": asdict(run.config),
        **run.source.describe(),
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
    }
    if state.average is not None:
        averaged = {**state.network.state_dict(), **state.average.values}
        errors = [list(pair) for pair in state.average_errors]
        content["average"] = {"model": model_state(averaged, iteration), "errors": errors}
    return content


def model_state(tensors: Mapping[str, Tensor], iteration: int) -> dict[str, Tensor]:
    """Return a state_dict with torchvision's names and dtypes, copied to the CPU.

    Args:
        tensors: The state_dict of the network.
        iteration: The number of steps made so far. It replaces BN's counters of forward passes.
    """
    state = {name: value.detach().to("cpu", copy=True) for name, value in tensors.items()}
    for name in state:
        # BN counts forward passes. Their number depends on the number of processes, but the number of steps does not.
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(iteration)
    return state


def restore(state: State, content: dict[str, Any]) -> None:
    """Copy the content of a checkpoint into the state. Raises UserError if it belongs to another model."""
    try:
        state.network.load_state_dict(content["model"])
    except RuntimeError as error:
        raise UserError(f"the checkpoint is of another model: {str(error).splitlines()[-1].strip()}") from None
    buffers = list(momentum_buffers(state.optimizer))
    if [buffer.shape for buffer in buffers] != [value.shape for value in content["momentum"]]:
        raise UserError("the checkpoint is of another model: its momentum has other shapes")
    for buffer, value in zip(buffers, content["momentum"], strict=True):
        buffer.copy_(value)
    if state.loss_scale is not None and content["loss_scale"]:  # only runs in fp16 store a scale
        for tensor, number in zip(state.loss_scale.tensors(), content["loss_scale"], strict=True):
            tensor.fill_(number)
    state.position = Position(**content["position"])
    state.errors = [(top1, top5) for top1, top5 in content["errors"]]
    if state.average is not None:
        restore_average(state, state.average, content.get("average"))


def restore_average(state: State, average: MovingAverage, kept: dict[str, Any] | None) -> None:
    """Copy the average of the weights from a checkpoint into the state.

    A checkpoint of a run without --ema has no average. Then the average starts from the current weights.

    Args:
        state: The state.
        average: The averaged weights of the state, which are overwritten.
        kept: The entry "average" of the checkpoint, or None if it has no such entry.

    Raises:
        UserError: The average belongs to another model.
    """
    if kept is None:
        average.start()
        return
    try:
        average.load(kept["model"])
    except (KeyError, RuntimeError):
        raise UserError("the checkpoint is of another model: its averaged weights have other names or shapes") from None
    state.average_errors = [(top1, top5) for top1, top5 in kept["errors"]]


def is_best(content: dict[str, Any]) -> bool:
    """Return whether a checkpoint has the lowest validation error so far.

    With --ema, this is the error of the averaged weights. The result is False for a checkpoint within an epoch, because
    its error is not known.
    """
    errors = [top1 for top1, _ in content.get("average", content)["errors"]]
    return content["position"]["seen"] == 0 and bool(errors) and errors[-1] < min(errors[:-1], default=math.inf)


def digest(content: Any) -> str:
    """Return a hash of the names and values in a checkpoint. It does not depend on how the file stores them.

    Raises:
        ValueError: The content has tensors that no checkpoint has.
        RecursionError: The content is nested too deeply.
    """
    found = hashlib.blake2b(digest_size=16)
    _feed(found, content)
    return found.hexdigest()


def _feed(found: Any, content: Any) -> None:
    if isinstance(content, Tensor):
        if not is_plain(content):
            raise ValueError("a tensor that is not an ordinary one")
        found.update(f"{content.dtype}{tuple(content.shape)}".encode())
        found.update(content.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    elif isinstance(content, dict):
        for name, value in content.items():
            found.update(f"{name}:".encode())
            _feed(found, value)
    elif isinstance(content, list | tuple):
        found.update(f"[{len(content)}]".encode())
        for value in content:
            _feed(found, value)
    else:
        found.update(repr(content).encode())


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint. Raises UserError with the reason if the file is incomplete, damaged or of another kind."""
    if path.is_dir():
        raise UserError(f"{path} is a folder, not a checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except Exception as error:  # a damaged file makes torch raise many kinds of errors
        raise UserError(f"{path} is damaged: it cannot be read ({type(error).__name__})") from None
    if not isinstance(content, dict) or "format" not in content:
        raise UserError(f"{path} is not a checkpoint of this program")
    if not isinstance(content["format"], int):
        raise UserError(f"{path} is not a checkpoint of this program: its format is not a number")
    if content["format"] != FORMAT:
        raise UserError(f"{path} has format {content['format']}, and this version reads format {FORMAT} only")
    checksum = content.pop("checksum", None)
    try:
        expected = digest(content)
    except (ValueError, RecursionError):
        raise UserError(
            f"{path} is not a checkpoint of this program: it is nested too deeply or has unusual tensors"
        ) from None
    if checksum != expected:
        raise UserError(f"{path} is damaged: its checksum is wrong")
    wrong = [name for name, is_right in FORM.items() if not is_right(content.get(name))]
    if wrong:
        raise UserError(f"{path} is not a checkpoint of this program: its {wrong[0]} is missing or of another kind")
    return content


def _is_dict_of(kind: type, value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(k, str) and isinstance(v, kind) for k, v in value.items())


def _is_errors(value: object) -> bool:
    return isinstance(value, list) and all(is_list_of(float, pair) and len(pair) == 2 for pair in value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


# A check for each part of a checkpoint. The checksum cannot replace these checks, because it only shows that the file
# has not changed since it was written.
FORM: dict[str, Callable[[Any], bool]] = {
    "model": lambda value: _is_dict_of(Tensor, value),
    "momentum": lambda value: is_list_of(Tensor, value),
    "loss_scale": lambda value: is_list_of(float, value) and len(value) in (0, 2),
    "position": lambda value: _is_dict_of(int, value) and set(value) == set(Position._fields)
    and all(map(_is_count, value.values())),
    "errors": lambda value: _is_errors(value),
    "average": lambda value: value is None or (isinstance(value, dict) and set(value) == {"model", "errors"}
    and _is_dict_of(Tensor, value["model"]) and _is_errors(value["errors"])),
    "config": lambda value: _is_dict_of(object, value),
    "classes": lambda value: is_list_of(str, value),
    "fingerprint": lambda value: isinstance(value, str),
    "image_size": lambda value: _is_count(value) and value > 0,
    "mean": lambda value: is_list_of(float, value) and bool(value),
    "std": lambda value: is_list_of(float, value) and bool(value),
}  # fmt: skip
