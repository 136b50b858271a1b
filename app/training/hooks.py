"""Calls that the training makes at fixed moments. Measurements use them, and tests that cause faults."""

from __future__ import annotations

from app.training.state import State


class Hooks:
    """Methods that the training calls at fixed moments, in the main thread of each process. They do nothing.

    A subclass overrides the methods that it needs. `train_step`, `Trainer` and the command `train` take such an object.
    """

    def before_step(self, state: State) -> None:
        """Do nothing. This is called before a step, after its learning rate was set."""

    def after_copy(self) -> None:
        """Do nothing. This is called after the images of a forward pass were copied to the device and normalised."""

    def after_forward(self) -> None:
        """Do nothing. This is called after each forward pass."""

    def before_sums(self) -> None:
        """Do nothing. This is called after the last backward pass of a step, before the wait for summed gradients."""

    def after_sums(self) -> None:
        """Do nothing. This is called after the gradients were summed, before they are used."""

    def before_evaluation_batch(self) -> None:
        """Do nothing. This is called before each batch of validation images of this process."""

    def before_comparison(self, state: State) -> None:
        """Do nothing. This is called before the processes compare their states.

        They do this at the start, and at the end of each epoch between its log line and its checkpoint.
        """


NO_HOOKS = Hooks()
