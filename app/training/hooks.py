"""Calls that the training makes at fixed moments. `benchmark` measures with them, and tests cause faults with them."""

from __future__ import annotations

from app.training.state import State


class Hooks:
    """Methods that the training calls at fixed moments, in the main thread of each process.

    The methods of this class do nothing. A subclass overrides those that it needs. `train_step`, `Trainer`
    and the command `train` take such an object.
    """

    def before_step(self, state: State) -> None:
        """Called before a step, after its learning rate was set."""

    def after_copy(self) -> None:
        """Called after the images of a forward pass were copied to the device and normalised."""

    def after_forward(self) -> None:
        """Called after each forward pass."""

    def before_sums(self) -> None:
        """Called after the last backward pass of a step, before the wait for summed gradients."""

    def after_sums(self) -> None:
        """Called after the gradients were summed, before they are used."""

    def before_evaluation_batch(self) -> None:
        """Called before each batch of validation images of this process."""

    def before_comparison(self, state: State) -> None:
        """Called before the processes compare their states.

        The processes do this at the start, and at the end of each epoch. At the end of an epoch, the validation error
        is already in the log, and the checkpoint is not written yet.
        """


NO_HOOKS = Hooks()
