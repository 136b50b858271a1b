"""Our side: the `train` command as it is, its step given a meter. Options are those of `train`."""

from __future__ import annotations

import signal
import sys
from typing import Any

from app.commands import train
from app.training import loop, run
from benchmarks import networks
from benchmarks.meter import Meter


def main(argv: list[str]) -> None:
    network, options = argv[0], argv[1:]
    if network in networks.NAMES:
        # What the program would choose for so short a pass, if it knew the network.
        options = [*options, "--cycle-ms", "1", "--overlap", "off"]
        run.make_network = lambda config, channels, classes, norm: networks.make(network, channels, classes, norm)
    meter: list[Meter] = []
    step = loop.train_step

    def metered(*arguments: Any) -> Any:
        if not meter:
            signal.signal(signal.SIGCONT, signal.SIG_DFL)  # here the end of a pause, elsewhere mpirun's end of a job
            meter.append(Meter())
        meter[0].tick()
        return step(*arguments)

    loop.train_step = metered
    train.main(options)


main(sys.argv[1:])
