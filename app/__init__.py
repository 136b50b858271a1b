"""Train networks with large minibatches from Python (`train`), and load trained networks (`load`).

Every command imports this module first. To keep this import fast, the functions import the rest of the program only
when they are called.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.runs.record import Record
    from app.trained.trained import TrainedNetwork

__all__ = ["load", "train"]


def train(*, processes: int = 1, **options: Any) -> Record:
    """Train a network and return the record of the run.

    The training runs in separate processes, so `train` can be called several times and in a notebook. The output of
    these processes is printed. An interrupt (Ctrl-C, or the stop button of a notebook) makes the run save its state and
    stop.

    Args:
        processes: The number of processes on this machine.
        options: The options of `./run.sh train`, with `_` in place of `-`: `train(data="digits", epochs=3)`.

    Returns:
        The record, with the attributes `folder`, `config`, `plan`, `evaluations` and `result`.

    Raises:
        UserError: An option is wrong or the run failed. The text is the message that the command line prints.
    """
    from app.launch.from_python import train_in_processes
    from app.runs.record import read_record

    return read_record(train_in_processes(processes, options))


def load(weights: str | Path) -> TrainedNetwork:
    """Return a trained network.

    The returned object has the attribute `network`, a torch module in evaluation mode, and the method `predict`, which
    returns the most probable classes of an image file.

    Args:
        weights: The folder of a run, a checkpoint, or a file with a state_dict that has torchvision's names.

    Raises:
        UserError: The file or the folder contains no network of this program and none of torchvision's ResNets.
    """
    from app.trained import trained

    return trained.load(str(weights))
