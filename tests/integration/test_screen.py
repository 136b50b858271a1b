"""The output of `train` with --screen json, with --screen quiet, and with two ranks."""

import json
import re
from pathlib import Path

from tests.integration.conftest import App

SHORT = ("train", "--epochs", "2", "--log-every", "5")


def test_json_is_the_log_and_the_result(app: App, tmp_path: Path) -> None:
    shown = [json.loads(line) for line in app(*SHORT, "--screen", "json", "--output", tmp_path).stdout.splitlines()]
    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert shown[:-1] == logged
    assert shown[-1] == {"kind": "result", **json.loads((tmp_path / "result.json").read_text())}


def test_quiet_shows_the_result_only(app: App, tmp_path: Path) -> None:
    shown = app(*SHORT, "--screen", "quiet", "--output", tmp_path).stdout.splitlines()
    assert len(shown) == 2 and shown[0].startswith("result: top-1 error")


def test_two_ranks_say_each_line_once(app: App, tmp_path: Path) -> None:
    lines = app(*SHORT, "--output", tmp_path, processes=2).stdout.splitlines()
    said = [line.removeprefix("[0]<stdout>:") for line in lines]
    assert len(said) == len(set(said)) and not any("[1]<stdout>" in line for line in lines)
    assert [line[:9] for line in said if line.startswith("epoch ")] == ["epoch 1/2", "epoch 2/2"]
    assert re.search(r"processes: 2 on .*controller gloo, collectives gloo", said[0])
