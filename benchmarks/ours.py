"""Run the `train` command and measure its steps: python -m benchmarks.ours NETWORK [options of train]."""

from __future__ import annotations

import signal
import sys

from app.commands import train
from app.training import run
from app.training.hooks import Hooks
from app.training.state import State
from benchmarks import networks
from benchmarks.meter import Meter


class Metered(Hooks):
    """The hooks of a training that calls a `Meter` before each step."""

    meter: Meter | None = None

    def before_step(self, state: State) -> None:
        if self.meter is None:
            # The driver sends SIGCONT after a pause. Under mpirun, `train` would take it as a request to stop.
            signal.signal(signal.SIGCONT, signal.SIG_DFL)
            self.meter = Meter()
        self.meter.tick()


def main(argv: list[str]) -> None:
    network, options = argv[0], argv[1:]
    if network in networks.NAMES:
        # The program would choose these values for a network whose steps are as short as this one's. It chooses by the
        # size of the network of --model, which is replaced here.
        options = [*options, "--cycle-ms", "1", "--overlap", "off"]
        run.make_network = lambda config, channels, classes, norm: networks.make(network, channels, classes, norm)
    train.main(options, Metered())


main(sys.argv[1:])
