"""`app.train`: wrong arguments are refused, and a run that fails raises. docs/python.md tests a run that succeeds."""

import sys
from pathlib import Path

import pytest

from app import load, train
from app.base.errors import UserError
from app.launch.from_python import _run, words_of


def test_options_become_words() -> None:
    options = {
        "epochs": 3,
        "reference_lr": 0.2,
        "grey": True,
        "nesterov": False,
        "decay_epochs": (1, 2.5),
        "data": "-x",
    }
    assert words_of(options) == [
        "--epochs=3", "--reference-lr=0.2", "--grey", "--no-nesterov", "--decay-epochs=1,2.5", "--data=-x",
    ]  # fmt: skip


def test_mistakes_raise_before_a_process_starts() -> None:
    with pytest.raises(UserError, match="there is no option epoch: did you mean epochs"):
        train(epoch=3)
    with pytest.raises(UserError, match="processes is 0: give 1 or more"):
        train(processes=0)
    with pytest.raises(UserError, match="--epochs is 0: give a number above 0"):
        train(epochs=0)
    with pytest.raises(UserError, match="--resume nowhere"):
        train(resume="nowhere")


def test_a_run_that_fails_raises_its_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=rf"^no such data folder: {tmp_path}/none"):
        train(data=f"{tmp_path}/none", output=tmp_path / "run", device="cpu")
    assert "no such data folder" in capfd.readouterr().out
    with pytest.raises(UserError):
        load(tmp_path / "run")


def test_the_reason_of_a_failure_may_be_followed_by_the_output_of_the_launcher() -> None:
    program = "print('first'); print('error: host a does not answer'); print('ssh: said this'); raise SystemExit(1)"
    with pytest.raises(UserError, match=r"^host a does not answer$"):
        _run([sys.executable, "-c", program])
    with pytest.raises(UserError, match=r"^no reason$"):
        _run([sys.executable, "-c", "print('first'); print('no reason'); raise SystemExit(1)"])
