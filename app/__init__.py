"""Large-minibatch SGD in Python: `from app import train, load`. The command line is `./run.sh`.

Nothing is imported before one of the functions is called, so that the commands start at once.
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

    The training runs in processes of its own, whose output is printed, so that it can be called in a notebook and
    several times. An interrupt (Ctrl-C, or the stop button of a notebook) makes the run save and stop.

    Args:
        processes: The number of processes on this machine.
        options: The options of `./run.sh train`, with `_` in place of `-`: `train(data="digits", epochs=3)`.

    Returns:
        The record, with the attributes `folder`, `config`, `plan`, `evaluations` and `result`.

    Raises:
        UserError: An option is wrong or the run failed. The text is what the command line says.
    """
    from app.launch.from_python import train_in_processes
    from app.runs.record import read_record

    return read_record(train_in_processes(processes, options))


def load(weights: str | Path) -> TrainedNetwork:
    """Return a trained network: of a run's folder, a checkpoint, or a state_dict with torchvision's names.

    Its attribute `network` is a torch module in evaluation mode; `predict` returns the classes of an image file.

    Raises:
        UserError: The file or the folder holds no network of this program or of torchvision's ResNets.
    """
    from app.trained import trained

    return trained.load(str(weights))
