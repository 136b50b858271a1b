"""TensorBoard's files have each value of log.jsonl exactly once, also after a crash. A browser shows the curves."""

import contextlib
import json
import shutil
import signal
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams.backend_context import Context

from app.data.sources import open_source
from app.recipe.config import Config
from app.recipe.plan import Position, make_plan
from app.runs.board import Board
from app.runs.run import Run
from tests.integration.conftest import App
from tests.support.browser import served, wait_for_curves, wait_for_text
from tests.support.fork_server import fork_of
from tests.support.in_process import run_command
from tests.support.programs import ROOT, environ
from tests.support.programs import run as run_to_its_end

PER_EPOCH, MINIBATCH = 8, 128  # 1077 // 128


def scalars(run: Path, folder: str) -> dict[str, list[tuple[int, float]]]:
    board = EventAccumulator(str(run / "tensorboard" / folder), size_guidance={"scalars": 0})
    board.Reload()
    return {tag: [(e.step, e.value) for e in board.Scalars(tag)] for tag in board.Tags()["scalars"]}


def log(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def check_curves(run: Path, epochs: int) -> None:
    train, validation = (scalars(run, folder) for folder in ("train", "validation"))
    for name in ("loss", "top1_error", "lr"):
        assert [s for s, _ in train[f"steps/{name}"]] == list(range(1, epochs * PER_EPOCH + 1))
    logged, evaluated = log(run, "train"), log(run, "eval")
    measured = [f"norms/{name}" for name in ("gradient_norm", "parameter_norm")]
    measured += [f"speed/{name}" for name in ("images_per_second", "data_wait", "sum_wait")]
    for tag in measured:
        name = tag.split("/")[1]
        assert train[tag] == [(x["iteration"], pytest.approx(x[name])) for x in logged]
    assert train["images/loss"] == [(x["iteration"] * MINIBATCH, pytest.approx(x["loss"])) for x in logged]
    for tag, factor in (("steps/top1_error", 1), ("images/top1_error", MINIBATCH)):
        expected = [(factor * x["iteration"], pytest.approx(x["top1_error"])) for x in evaluated]
        assert validation[tag] == expected
    assert validation["epochs/error"] == [
        (i + 1, pytest.approx(100 * x["top1_error"])) for i, x in enumerate(evaluated)
    ]
    # The training error of an epoch is the mean over all of its steps.
    for i, x in enumerate(evaluated):
        errors = [v for s, v in train["steps/top1_error"] if i * PER_EPOCH < s <= (i + 1) * PER_EPOCH]
        assert train["epochs/error"][i] == (i + 1, pytest.approx(100 * sum(errors) / PER_EPOCH))
        assert x["train_top1_error"] == pytest.approx(sum(errors) / PER_EPOCH)
        # The learning rate of an epoch is that of its last step.
        _, last = train["steps/lr"][(i + 1) * PER_EPOCH - 1]
        assert train["epochs/lr"][i] == (i + 1, pytest.approx(last)) and x["lr"] == pytest.approx(last)


def test_curves(trained: Path) -> None:
    check_curves(trained, 3)


def test_plan_images_and_hyperparameters(trained: Path) -> None:
    check_what_is_written_once(trained)


def check_what_is_written_once(run: Path) -> None:
    board, validation = (EventAccumulator(str(run / "tensorboard" / name)).Reload() for name in ("train", "validation"))
    assert board.Tags()["images"] == ["first_minibatch"] and validation.Tags()["images"] == ["confusion"]
    assert len(board.Images("first_minibatch")) == len(validation.Images("confusion")) == 1
    assert "plan/text_summary" in board.Tags()["tensors"]
    result = json.loads((run / "result.json").read_text())
    assert len(board.Scalars("end_of_run/top1_error")) == 1
    assert board.Scalars("end_of_run/top1_error")[0].value == pytest.approx(result["top1_error"])
    hparams = board.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"minibatch" in hparams and b"warmup_epochs" in hparams and b"output" not in hparams


def test_the_table_of_runs_begins_with_what_differs_and_with_the_result(tmp_path: Path) -> None:
    """TensorBoard's table of hyperparameters begins with the columns that differ and with the results.

    TensorBoard's page shows only the first five columns of each kind.
    """
    source, multiplexer = open_source("digits"), EventMultiplexer()
    for number in range(3):
        config = Config(minibatch=128 * 2**number, weight_decay=(1e-4, 1e-4, 0.0)[number], output=f"run-{number}")
        plan = make_plan(config, len(source.train), len(source.validation))
        board = Board(Run(config, plan, source, tmp_path / str(number)), Position())
        board.finish({"top1_error": 0.5, "median_top1_error": 0.25, "top5_error": 0.125, "epochs": 90})
        board.close()
        multiplexer.AddRun(str(tmp_path / str(number) / "tensorboard" / "train"), str(number))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(tmp_path))
    context, request = Context(TBContext(data_provider=provider)), RequestContext()
    known = context.hparams_metadata(request, "")
    table = context.experiment_from_metadata(request, "", True, known, None)
    names = [column.name for column in table.hparam_infos]
    assert names[:2] == ["minibatch", "weight_decay"] and names[2:] == sorted(names[2:])
    assert [column.differs for column in table.hparam_infos][:3] == [True, True, False]
    curves = [column.name.tag for column in table.metric_infos]
    assert curves[:3] == ["end_of_run/median_top1_error", "end_of_run/top1_error", "end_of_run/top5_error"]


def test_a_run_which_crashed_and_went_on_draws_one_curve(app: App, trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen(
        [*fork_of("-m", "app"), "train", "--epochs", "3", "--output", str(run), "--log-every", "4"],
        cwd=ROOT, env=environ(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout
    for line in process.stdout:
        if line.startswith("epoch 1/3"):
            process.send_signal(signal.SIGTERM)
            break
    process.communicate()
    assert process.returncode == 75
    shutil.copytree(run / "checkpoints", tmp_path / "early")
    app("train", "--resume", run)
    # After a power failure, the checkpoint may be older than the last lines of the log and of TensorBoard's files.
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(tmp_path / "early", run / "checkpoints")
    app("train", "--resume", run)
    assert [len(list((run / "tensorboard" / name).iterdir())) for name in ("train", "validation")] == [1, 1]
    check_curves(run, 3)
    check_what_is_written_once(run)
    once = scalars(trained, "train")["steps/loss"]
    assert scalars(run, "train")["steps/loss"] == once
    assert shown_by_tensorboard(run, "train", "steps/loss", len(once)) == once


def test_a_kill_between_an_evaluation_and_its_checkpoint_doubles_nothing(tmp_path: Path) -> None:
    """The run is killed when the evaluation is in the log, but the newest checkpoint was made before the evaluation."""
    run, options = tmp_path / "run", ["--epochs", "2", "--checkpoint-every", str(PER_EPOCH), "--stall-timeout", "0"]
    command = fork_of(ROOT / "tests/support/fault_rank.py", "train", "--output", run, "--log-every", 4, *options)
    run_to_its_end(*command, code=-signal.SIGKILL, FAULT=f"die-unsaved:0:{PER_EPOCH}")
    assert [line["epoch"] for line in log(run, "eval")] == [0]
    # Every step is there once.
    assert [step for step, _ in scalars(run, "train")["steps/loss"]] == list(range(1, PER_EPOCH + 1))
    assert run_command("train", "--resume", run) == (0, "")
    assert [line["epoch"] for line in log(run, "eval")] == [0, 1]
    check_curves(run, 2)


def test_board_refuses_an_empty_folder(app: App, tmp_path: Path) -> None:
    assert "contains no TensorBoard files" in app("board", tmp_path, code=2).stderr
    assert "no folder" in app("board", tmp_path / "none", code=2).stderr


def shown_by_tensorboard(run: Path, folder: str, tag: str, count: int) -> list[tuple[int, float]]:
    """Return a curve that TensorBoard's server sends to the browser. `scalars` reads the files by other code."""
    query = f"data/plugin/scalars/scalars?run=tensorboard/{folder}&tag={tag}"
    with served(run) as address:
        for _ in range(100):
            with contextlib.suppress(OSError):  # TensorBoard answers 404 until it has read the files
                points = json.load(urllib.request.urlopen(address + query))
                if len(points) >= count:
                    return [(step, value) for _, step, value in points]
            time.sleep(0.2)
    raise AssertionError("TensorBoard did not read the run")


def test_a_browser_shows_the_curves(trained: Path, browser: Any) -> None:
    with served(trained) as address:
        browser.get(address + "#custom_scalars")
        wait_for_text(browser, "error (%) against epoch", "by images seen", "Matches (2)")
        wait_for_curves(browser, 4)
        for tab, *texts in (
            ("text", "k = 8 workers of n = 16 images, kn = 128"),
            ("hparams", "end_of_run/top1_error", "bn_momentum"),
            ("timeseries", "confusion", "tensorboard/train", "tensorboard/validation"),
        ):
            browser.get(f"{address}#{tab}")
            browser.refresh()
            wait_for_text(browser, *texts)
