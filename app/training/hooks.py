"""Where measurements, and tests that cause faults, may look into training or disturb it."""

from __future__ import annotations

from app.training.state import State


class Hooks:
    """Methods that training calls at fixed moments, in the main thread of each process. Here they do nothing.

    A subclass overrides those that it needs. `train_step`, `Trainer` and the command `train` take such an object.
    """

    def before_step(self, state: State) -> None:
        """Before a step; its learning rate is set."""

    def after_copy(self) -> None:
        """After the images of a forward pass were copied to the device and normalised."""

    def after_forward(self) -> None:
        """After a forward pass."""

    def before_sums(self) -> None:
        """After the last backward pass of a step, before the wait for the gradients' sums over the processes."""

    def after_sums(self) -> None:
        """When the gradients are summed, before they are used."""

    def before_evaluation_batch(self) -> None:
        """Before each batch of validation images of this process."""

    def before_comparison(self, state: State) -> None:
        """Before the processes compare their states: at the start, and when an evaluation is logged but not saved."""


NO_HOOKS = Hooks()
