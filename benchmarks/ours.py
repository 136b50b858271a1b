"""Our side: the `train` command as it is, with a meter at each step. Options are those of `train`."""

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
    """Tells the driver the time of the steps."""

    meter: Meter | None = None

    def before_step(self, state: State) -> None:
        if self.meter is None:
            signal.signal(signal.SIGCONT, signal.SIG_DFL)  # here the end of a pause, elsewhere mpirun's end of a job
            self.meter = Meter()
        self.meter.tick()


def main(argv: list[str]) -> None:
    network, options = argv[0], argv[1:]
    if network in networks.NAMES:
        # What the program would choose for so short a pass, if it knew the network.
        options = [*options, "--cycle-ms", "1", "--overlap", "off"]
        run.make_network = lambda config, channels, classes, norm: networks.make(network, channels, classes, norm)
    train.main(options, Metered())


main(sys.argv[1:])
