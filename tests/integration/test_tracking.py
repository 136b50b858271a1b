"""The lines of docs/tracking.md give a run to Weights & Biases and to MLflow, without a network.

The programs import mlflow from mlflow-skinny, which is MLflow without its server.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

from tests.support.programs import ROOT, run

PAGE = (ROOT / "docs/tracking.md").read_text()
QUIET = {
    "WANDB_SILENT": "true",
    "WANDB_ERROR_REPORTING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
}
READ_WANDB = """
import json, sys
from wandb.proto.wandb_internal_pb2 import Record
content, place, part, rows, summary = open(sys.argv[1], "rb").read(), 7, b"", [], {}
while place + 7 <= len(content):  # records in blocks of 32 KiB: checksum, length, kind (1 and 4 end a record)
    if place // 32768 != (place + 6) // 32768:
        place = (place // 32768 + 1) * 32768
        continue
    size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
    part, place = part + content[place + 7 : place + 7 + size], place + 7 + size
    if kind not in (1, 4):
        continue
    record, part = Record.FromString(part), b""
    row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
    rows += [{name: value for name, value in row.items() if name[0] != "_"}] if row else []
    summary |= {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.summary.update}
print(json.dumps([rows, summary]))
"""
READ_MLFLOW = """
import json, sys
from mlflow import MlflowClient
client = MlflowClient("sqlite:///mlflow.db")
[run] = client.search_runs([client.get_experiment_by_name("large-minibatch-sgd").experiment_id])
history = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
curves = {name: [(metric.step, metric.value) for metric in metrics] for name, metrics in history.items()}
print(json.dumps([curves, run.data.params, [file.path for file in client.list_artifacts(run.info.run_id)]]))
"""


def follow_page(module: str, trained: Path, place: Path) -> None:
    """Run the program of docs/tracking.md that imports `module`, for the run `trained`, in the folder `place`."""
    (place / "runs").mkdir()
    (place / "runs/digits").symlink_to(trained)
    [block] = [each.split("```")[0] for each in PAGE.split("```python\n")[1:] if f"\nimport {module}\n" in each]
    run(sys.executable, "-c", f"import os; os.chdir({str(place)!r})\n{block}", **QUIET)


def read_back(program: str, place: Path, *arguments: object) -> Any:
    done = run(sys.executable, "-c", f"import os; os.chdir({str(place)!r})\n{program}", *arguments, **QUIET)
    return json.loads(done.stdout.splitlines()[-1])


def epochs_of(trained: Path) -> list[dict[str, float]]:
    with (trained / "epochs.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def test_weights_and_biases(trained: Path, tmp_path: Path) -> None:
    follow_page("wandb", trained, tmp_path)
    [file] = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    rows, summary = read_back(READ_WANDB, tmp_path, file)
    assert rows == epochs_of(trained) and len(rows) == 3
    assert summary["median_top1_error"] == json.loads((trained / "result.json").read_text())["median_top1_error"]


def test_weights_and_biases_cannot_read_the_files_of_tensorboard(trained: Path, tmp_path: Path) -> None:
    """docs/tracking.md gives this as the reason why its lines read epochs.csv."""
    program = f"import os; os.chdir({str(tmp_path)!r}); from wandb.cli.cli import cli; cli()"
    done = run(sys.executable, "-c", program, "sync", "--sync-tensorboard", trained / "tensorboard", code=1, **QUIET)
    assert "options have been removed: --sync-tensorboard" in done.stderr


def test_mlflow(trained: Path, tmp_path: Path) -> None:
    follow_page("mlflow", trained, tmp_path)
    curves, parameters, files = read_back(READ_MLFLOW, tmp_path)
    for name in ("top1_error", "train_loss", "lr"):
        assert curves[name] == [[row["epoch"], row[name]] for row in epochs_of(trained)]
    assert parameters["model"] == "resnet8" and parameters["minibatch"] == "128"
    assert files == ["epochs.csv"]
