"""Carry out experiments: train the runs that are missing, then write results, tables and plots."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from app.base.errors import NOT_FINITE, UserError
from app.base.files import write_text
from app.base.program import BY_LAUNCHER, IN_THIS_PROCESS
from app.base.signals import StopRequest
from app.recipe.config import Config
from app.recipe.data_size import data_size
from app.recipe.plan import make_plan
from app.reproduce import plots
from app.reproduce.experiments import EXPERIMENTS, Cell, figure_1
from app.reproduce.records import read_records, write_records
from app.reproduce.results import break_of, cell_result, results_of
from app.reproduce.runs import CellRun, run_of
from app.reproduce.scheduler import Task, run_all
from app.reproduce.tables import table
from app.runs.folder_lock import lock_folder

ROOT = Path(__file__).resolve().parents[2]


class Laboratory:
    """Train the runs of experiments and write their results.

    Args:
        base: The config of the baseline with the first seed.
        seeds: The number of runs of each config.
        jobs: The number of runs that are trained at the same time.
        runs: The folder of all runs.
        launch: The launch options of each run. If it is empty, a run is one process on one core.
        stop: The attribute `asked` is True when this process was asked to stop.
        known: A file with records of finished runs, which are not trained again, or None.
        trains: True to train missing runs, False to use only the runs that are finished.
    """

    def __init__(
        self,
        base: Config,
        seeds: int,
        jobs: int,
        runs: Path,
        launch: list[str],
        stop: StopRequest,
        known: Path | None = None,
        trains: bool = True,
    ) -> None:
        self.base, self.seeds, self.jobs, self.runs, self.launch, self.stop = base, seeds, jobs, runs, launch, stop
        self.known = read_records(known) if known else {}
        self.trains = trains
        self.images = data_size(base).images

    def run(self, outputs: Mapping[str, Path], records: Path, command: str) -> None:
        """Carry out experiments.

        Args:
            outputs: The folder for the results of each experiment, by the experiment's name.
            records: The file to write the records of the used runs to.
            command: The command line, which is part of the results.

        Raises:
            Preempted: This process was asked to stop. The runs have saved their state.
        """
        cells = {name: EXPERIMENTS[name].cells(self.base, self.images) for name in outputs}
        runs = {name: {cell.name: self.runs_of(cell.config) for cell in found} for name, found in cells.items()}
        if self.trains:
            lock = lock_folder(self.runs, patience=2)
            try:
                every = {run.folder: run for several in runs.values() for some in several.values() for run in some}
                if "gradient-noise" in runs:
                    (baselines,) = runs["gradient-noise"].values()
                    every |= {run.folder: replace(run, known=None) for run in baselines if not run.measured}
                self.train(every.values())
                if "gradient-noise" in runs:
                    self.measure_noise(baselines)
            finally:
                lock.close()
        for name, folder in outputs.items():
            self.write(name, cells[name], runs[name], folder, command)
        done = {run.folder: run for several in runs.values() for some in several.values() for run in some if run.done}
        write_records(records, (run.record() for run in done.values()))

    def runs_of(self, config: Config) -> list[CellRun]:
        """Return the runs of a config, one for each seed."""
        return [run_of(replace(config, seed=config.seed + i), self.runs, self.known) for i in range(self.seeds)]

    def train(self, runs: Iterable[CellRun]) -> None:
        """Train the runs that are not finished.

        Runs with small minibatches take longest, so they are started first. Otherwise one long run could be left at the
        end, with idle cores next to it.
        """
        waiting = sorted((run for run in runs if not run.done), key=lambda run: run.config.minibatch)
        run_all([self.training(run) for run in waiting], self.jobs, self.environ(), lambda: self.stop.asked)

    def training(self, run: CellRun) -> Task:
        """Return the task that trains a run, or continues it."""

        def ended(code: int, words: str, seconds: float) -> None:
            run.write_note(seconds, words if code == NOT_FINITE else "")

        size = data_size(run.config)
        steps = make_plan(run.config, size.images, size.validation_images).iterations
        program = [*BY_LAUNCHER, *self.launch] if self.launch else IN_THIS_PROCESS
        command = [*program, *run.command()]
        output = self.runs / f"{run.folder.name}.txt"
        return Task(run.folder.name, command, output, lambda: run.iteration / steps, ended)

    def measure_noise(self, runs: Iterable[CellRun]) -> None:
        """Measure the noise of the gradient at checkpoints of each run, if this was not done before."""
        waiting = [run for run in runs if not run.measured]
        tasks = [
            Task(
                f"noise of {run.folder.name}",
                [sys.executable, "-m", "app.reproduce.noise", str(run.folder)],
                run.folder / "noise.txt",
                partial(float),
                lambda code, words, seconds: None,
            )
            for run in waiting
        ]
        run_all(tasks, self.jobs, self.environ(), lambda: self.stop.asked)

    def environ(self) -> dict[str, str]:
        """Return the environment of the runs.

        Without a launcher, each run has one thread, because one run is trained on each core. With a launcher, the
        launcher divides the cores among the processes.
        """
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        return dict(os.environ) | {"PYTHONPATH": path} | ({} if self.launch else {"OMP_NUM_THREADS": "1"})

    def write(
        self, name: str, cells: list[Cell], runs: Mapping[str, list[CellRun]], folder: Path, command: str
    ) -> None:
        """Write results.json, table.md and the plots of an experiment, from the runs that are finished."""
        usable = {cell: [run for run in some if self.usable(name, run)] for cell, some in runs.items()}
        found = {"command": command, **results_of(name, cells, usable, folder)}
        untested = all(claim["p"] is None for claim in found["verdicts"])
        if not self.trains and (untested if found["verdicts"] else not found["cells"]):
            print(f"{name}: too few runs are finished to test a claim")
            return
        if name == "gradient-noise":
            found["break"] = self.known_break(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / "results.json", json.dumps(found, indent=1) + "\n")
            write_text(folder / "table.md", table(found))
            names = plots.draw(found, folder)
        except OSError as error:
            raise UserError(f"--output {folder} cannot be written: {error.strerror}; give another folder") from None
        print(table(found))
        print(f"in {folder}: results.json, table.md, {', '.join(names)}", flush=True)

    def usable(self, name: str, run: CellRun) -> bool:
        """Return whether a run has everything that the results of an experiment need."""
        return run.measured if name == "gradient-noise" else run.done

    def known_break(self, results: Path) -> dict[str, int | None] | None:
        """Return at which minibatches the error of Figure 1 rises (see `break_of`), or None if runs are missing."""
        cells = figure_1(self.base, self.images)
        runs = {cell.name: self.runs_of(cell.config) for cell in cells}
        if not all(run.done for several in runs.values() for run in several):
            return None
        return break_of([cell_result(cell, runs[cell.name], results) for cell in cells])
