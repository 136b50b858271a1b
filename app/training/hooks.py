"""Moments of the training at which measurements, and tests that cause faults, can run code."""

from __future__ import annotations

from app.training.state import State


class Hooks:
    """Methods that the training calls at fixed moments, in the main thread of each process. Here they do nothing.

    A subclass overrides those that it needs. `train_step`, `Trainer` and the command `train` take such an object.
    """

    def before_step(self, state: State) -> None:
        """Called before a step, after its learning rate was set."""

    def after_copy(self) -> None:
        """Called after the images of a forward pass were copied to the device and normalised."""

    def after_forward(self) -> None:
        """Called after each forward pass."""

    def before_sums(self) -> None:
        """Called after the last backward pass of a step, before the process waits for the sums of the gradients."""

    def after_sums(self) -> None:
        """Called after the gradients were summed, before they are used."""

    def before_evaluation_batch(self) -> None:
        """Called before each batch of validation images of this process."""

    def before_comparison(self, state: State) -> None:
        """Called before the processes compare their states: at the start, and between the log and the checkpoint of an
        epoch.
        """


NO_HOOKS = Hooks()
