"""The lines that a run prints, and plots of runs whose names contain unusual characters."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest

from app.launch.output import Output
from app.recipe.config import Config
from app.recipe.plan import Position, make_plan
from app.runs.figures import Curve, confusion_figure, curves_figure, to_pixels, to_png
from app.runs.screen import Screen


def test_the_line_of_an_epoch_shows_the_epochs_training_error(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(make_plan(Config(), 1077, 720), "lines", Position())
    last = {"loss": 0.9, "top1_error": 0.172, "lr": 0.1, "data_wait": 0.0, "images_per_second": 100.0}
    screen.train(Position(0, 1408), last)
    values = {"top1_error": 0.05, "top5_error": 0.01, "train_loss": 0.5, "train_top1_error": 0.1097}
    values["skipped_images"] = 0
    screen.evaluation(Position(0, 1408), values)
    assert "training loss 0.500, error 11.0%" in capsys.readouterr().out


@pytest.mark.parametrize(("mode", "rank"), [("lines", None), ("quiet", None), ("quiet", "0"), ("json", "0")])
def test_warnings_are_always_shown_and_a_launcher_always_learns_the_folder(
    mode: str, rank: str | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if rank is not None:
        monkeypatch.setenv("OMPI_COMM_WORLD_RANK", rank)
    screen = Screen(make_plan(Config(), 1077, 720), mode, Position())
    screen.say("processes: 2", "warning: 3 files are not read")
    screen.begin(Path("runs/a"))
    shown = capsys.readouterr()
    if mode == "lines":
        assert (shown.out, shown.err) == ("processes: 2\nwarning: 3 files are not read\noutput: runs/a\n", "")
    else:
        told = "app output: runs/a\n" if rank else ""
        assert (shown.out, shown.err) == ("", f"warning: 3 files are not read\n{told}")
    for text in (shown.out, shown.err) if rank else ():  # what the launcher reads and shows
        output = Output(io.StringIO(), io.StringIO())
        output.feed("".join(f"[0]<stderr>:{line}\n" for line in text.splitlines()).encode())
        assert output.folder == ("runs/a" if text else "")
        assert "runs/a" not in output.err.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["caf\udce9", "a$^$", "US$_$x", "猫", "x" * 40, "_x"])
def test_any_class_or_run_can_be_drawn(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert to_pixels(confusion_figure(np.eye(2, dtype=np.int64), (name, "other"))).any()
        assert to_png(curves_figure("error", "error (%)", [Curve(name, [1.0], [2.0])]))
