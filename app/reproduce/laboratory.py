"""Experiments carried out: their runs made where they are not there yet, then results, tables and plots written."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from app.base.errors import NOT_FINITE, UserError
from app.base.program import BY_LAUNCHER, IN_THIS_PROCESS
from app.data.sizes import data_size
from app.recipe.config import Config
from app.recipe.plan import make_plan
from app.reproduce import plots
from app.reproduce.experiments import EXPERIMENTS, Cell, figure_1
from app.reproduce.noise import FILE
from app.reproduce.results import break_of, cell_result, results_of
from app.reproduce.runs import CellRun, run_of
from app.reproduce.scheduler import Task, run_all
from app.reproduce.tables import table
from app.runs import run_folder
from app.runs.environment import processor
from app.training.signals import StopRequest

ROOT = Path(__file__).resolve().parents[2]


class Laboratory:
    """Trains for one base. launch: options of the launcher for each run, none for one process on one core."""

    def __init__(self, base: Config, seeds: int, jobs: int, runs: Path, launch: list[str], stop: StopRequest) -> None:
        self.base, self.seeds, self.jobs, self.runs, self.launch, self.stop = base, seeds, jobs, runs, launch, stop
        self.images = data_size(base).images

    def run(self, outputs: Mapping[str, Path], command: str) -> None:
        """Experiments by name into their folders. Raises Preempted, saved, where it is asked to stop."""
        lock = run_folder.claim(self.runs, patience=2)
        try:
            cells = {name: EXPERIMENTS[name].cells(self.base, self.images) for name in outputs}
            runs = {run.folder: run for several in cells.values() for c in several for run in self.runs_of(c.config)}
            self.train(runs.values())
            if "gradient-noise" in outputs:
                self.measure_noise(self.runs_of(cells["gradient-noise"][0].config))
        finally:
            lock.close()
        for name, folder in outputs.items():
            self.write(name, cells[name], folder, command)

    def runs_of(self, config: Config) -> list[CellRun]:
        """Seed by seed."""
        return [run_of(replace(config, seed=config.seed + i), self.runs) for i in range(self.seeds)]

    def train(self, runs: Iterable[CellRun]) -> None:
        """Those that are not done, the smallest minibatches first: they take longest, and the end should be even."""
        waiting = sorted((run for run in runs if not run.done), key=lambda run: run.config.minibatch)
        run_all([self.training(run) for run in waiting], self.jobs, self.environ(), lambda: self.stop.asked)

    def training(self, run: CellRun) -> Task:
        def ended(code: int, words: str, seconds: float) -> None:
            run.write_note(seconds, words if code == NOT_FINITE else "")

        size = data_size(run.config)
        steps = make_plan(run.config, size.images, size.validation_images).iterations
        program = [*BY_LAUNCHER, *self.launch] if self.launch else IN_THIS_PROCESS
        command = [*program, *run.command()]
        output = self.runs / f"{run.folder.name}.txt"
        return Task(run.folder.name, command, output, lambda: run.iteration / steps, ended)

    def measure_noise(self, runs: Iterable[CellRun]) -> None:
        """Of those that were not measured yet."""
        waiting = [run for run in runs if not (run.folder / FILE).exists() and not run.diverged]
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
        """One thread a process, as there is one for each core; the launcher shares the cores out itself."""
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        return dict(os.environ) | {"PYTHONPATH": path} | ({} if self.launch else {"OMP_NUM_THREADS": "1"})

    def write(self, name: str, cells: list[Cell], folder: Path, command: str) -> None:
        """results.json, table.md and plots."""
        runs = {cell.name: self.runs_of(cell.config) for cell in cells}
        seconds = sum(run.note().get("seconds", 0.0) for several in runs.values() for run in several)
        found = {
            "command": command,
            "machine": self.machine(),
            "core_hours": round(seconds / 3600, 3),
            **results_of(name, cells, runs, folder),
        }
        if name == "gradient-noise":
            found["break"] = self.known_break(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            run_folder.write_text(folder / "results.json", json.dumps(found, indent=1) + "\n")
            run_folder.write_text(folder / "table.md", table(found))
            names = plots.draw(found, folder)
        except OSError as error:
            raise UserError(f"--output {folder} cannot be written: {error.strerror}; name another folder") from None
        print(table(found))
        print(f"in {folder}: results.json, table.md, {', '.join(names)}", flush=True)

    def machine(self) -> str:
        """In words, without its name."""
        here, cores = len(os.sched_getaffinity(0)), os.cpu_count() or 1
        launched = f", each by the launcher with {' '.join(self.launch)}" if self.launch else ""
        at_once = "1 run" if self.jobs == 1 else f"{self.jobs} runs"
        return f"{here} of {cores} cores of a machine with {processor()}; {at_once} at once{launched}"

    def known_break(self, results: Path) -> dict[str, int | None] | None:
        """Where Figure 1 breaks, if all its runs are there."""
        cells = figure_1(self.base, self.images)
        runs = {cell.name: self.runs_of(cell.config) for cell in cells}
        if not all(run.done for several in runs.values() for run in several):
            return None
        return break_of([cell_result(cell, runs[cell.name], results) for cell in cells])
