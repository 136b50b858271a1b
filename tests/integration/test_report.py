"""The report of trained runs shows the content of their files, also in a browser."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from matplotlib.colors import to_rgb

from app.base.errors import UserError
from app.commands import report
from app.recipe.config import from_dict
from app.recipe.presets import preset
from app.runs.environment import HIDDEN, environment
from app.runs.figures import Curve, curves_figure, to_pixels
from app.runs.report_page import changed
from tests.integration.conftest import App
from tests.support.planted_secrets import PLANTED, SECRETS

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def page(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a report of a finished run and of a run that stopped after its first epoch."""
    folder = tmp_path_factory.mktemp("report")
    begun = folder / "begun"
    shutil.copytree(trained, begun)
    (begun / "result.json").unlink()
    lines = (begun / "log.jsonl").read_text().splitlines(keepends=True)
    last = next(i for i, line in enumerate(lines) if '"eval"' in line)
    (begun / "log.jsonl").write_text("".join(lines[: last + 1]) + '{"kind": "tra')
    report.main([str(trained), str(begun), str(trained), "--output", str(folder / "out")])
    return folder / "out/report.html"


def test_page(trained: Path, page: Path) -> None:
    text = page.read_text()
    result = json.loads((trained / "result.json").read_text())
    assert f"<td>{result['top1_error']:.2%}</td>" in text
    assert "<td>--epochs 3</td>" in text
    assert "<td>3</td>" in text and "<td>1 of 3</td>" in text
    assert "k = 8 workers of n = 16 images, kn = 128" in text
    assert text.count("<h2>") == 3  # the curves and two runs; a run that is named twice is shown once
    assert "choices of the paper" in text.lower() and "--warmup-epochs" in text
    assert not re.search(r"<script|<link|https?://", text)
    assert len(re.findall(r'src="data:image/png;base64,', text)) == 4
    for name in ("error", "loss", "rate", "speed"):
        assert (page.parent / f"{name}.png").read_bytes().startswith(PNG)


def test_what_a_run_changed_in_its_recipe() -> None:
    """The report lists changed options and the data set, but no values that follow from other options.

    The same holds for config.json files of earlier versions, which contain such values.
    """
    old = {
        **preset("paper-8k"),
        "data": "/imagenet",
        "epochs": 45,
        "image_size": 224,
        "decay_epochs": (15.0, 30.0, 40.0),
    }
    for values in (old, {name: value for name, value in old.items() if name not in ("image_size", "decay_epochs")}):
        assert changed(from_dict(values)) == "--data /imagenet --epochs 45"
    assert changed(from_dict({**preset("digits"), "decay_epochs": (5.0, 10.0)})) == "--decay-epochs 5,10"
    assert changed(from_dict(preset("fashion-mnist"))) == ""
    switches = changed(from_dict({**preset("digits"), "sync_bn": True, "nesterov": False}))
    assert sorted(switches.split()) == ["--no-nesterov", "--sync-bn"]


def test_curves_that_are_the_same_can_all_be_seen() -> None:
    curves = [Curve(name, [1, 2, 3], [1, 2, 1]) for name in "abc"]
    figure = curves_figure("title", "label", curves)
    widths = [line.get_linewidth() for line in figure.axes[0].lines]
    assert widths[0] > widths[1] + 2 > widths[2] + 4
    pixels = {tuple(pixel) for pixel in to_pixels(figure).reshape(-1, 3).tolist()}
    assert all(tuple(round(255 * part) for part in to_rgb(f"C{i}")) in pixels for i in range(3))


def test_a_browser_shows_it(page: Path, browser: Any) -> None:
    browser.get(page.as_uri())
    widths = browser.execute_script("return [...document.images].map(i => i.naturalWidth)")
    assert len(widths) == 4 and min(widths) > 500
    assert browser.execute_script("return document.body.scrollWidth <= window.innerWidth")
    assert "median of 5" in browser.execute_script("return document.body.innerText")


def test_environment_of_a_run(trained: Path) -> None:
    kept = json.loads((trained / "environment.json").read_text())
    assert kept["packages"]["horovod"] == "0.28.1" and kept["variables"]["OMP_NUM_THREADS"] == "1"
    assert "--epochs" in kept["command"]
    found = environment(["train", "--data", "/my data/x", "--seed", "1"], {"NCCL_DEBUG": "INFO", "HOME": "/home/me"})
    assert found["command"] == ["train", "--data", "/my data/x", "--seed", "1"]
    assert found["variables"] == {"NCCL_DEBUG": "INFO"}


COMMAND = [
    "train",
    "--api-token",
    "planted",
    "--wandb-key=planted",
    "--data",
    "s3://me:planted/x@host",
    "--output=a?sig=planted",
]


def test_text_of_a_run_from_a_stranger_is_shown_as_text(trained: Path, tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>"
    run = shutil.copytree(trained, tmp_path / evil.replace("/", ""))
    kept = json.loads((run / "environment.json").read_text())
    kept |= {"command": [evil], "packages": {evil: evil}, "processor": evil, "variables": {evil: evil}}
    (run / "environment.json").write_text(json.dumps(kept))
    report.main([str(run), str(trained), "--output", str(tmp_path / "out")])
    text = (tmp_path / "out/report.html").read_text()
    assert "<img src=x" not in text and "&lt;img src=x" in text


@pytest.mark.parametrize(("name", "value"), SECRETS.items())
def test_a_secret_in_the_environment_stays_there(name: str, value: str) -> None:
    assert PLANTED not in json.dumps(environment([], {name: value}))


def test_a_secret_on_the_command_line_stays_there() -> None:
    found = environment([*COMMAND, "--seed", "1"], {})["command"]
    assert "planted" not in json.dumps(found)
    assert found == [
        "train", "--api-token", HIDDEN, f"--wandb-key={HIDDEN}", "--data", HIDDEN, f"--output={HIDDEN}", "--seed", "1",
    ]  # fmt: skip


def test_a_run_without_any_epoch(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("config.json", "plan.json"):
        shutil.copy(trained / name, tmp_path)
    report.main([str(tmp_path), "--output", str(tmp_path / "out")])
    assert "report.html" in capsys.readouterr().out
    assert "0 of 3" in (tmp_path / "out/report.html").read_text()


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda run: (run / "config.json").unlink(), "is not a run"),
        (lambda run: (run / "config.json").write_text("{"), "is not a config"),
        (lambda run: (run / "config.json").write_text('{"epchs": 3}'), "--epchs"),
        (lambda run: (run / "plan.json").unlink(), "plan.json"),
        (lambda run: (run / "plan.json").write_text("[]"), "damaged"),
        (lambda run: (run / "plan.json").write_text("[" * 100_000), "plan.json is damaged"),
        (lambda run: (run / "plan.json").write_text("{}"), "plan.json is damaged: its 'images' is null"),
        (lambda run: change(run / "plan.json", images="x"), "its 'images' is x"),
        (lambda run: change(run / "plan.json", validation_images=0.5), "its 'validation_images' is 0.5"),
        (lambda run: change(run / "plan.json", hosts=5), "its 'hosts' is 5"),
        (lambda run: (run / "result.json").write_text("{"), "damaged"),
        (
            lambda run: (run / "result.json").write_text('{"top1_error": 0.1}'),
            "it has no images_per_second, top5_error",
        ),
        (lambda run: change(run / "result.json", top1_error="x"), "its 'top1_error' is x"),
    ],
)
def test_damaged_runs(damage: Any, says: str, trained: Path, tmp_path: Path, capsys: Any) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run, ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))
    damage(run)
    with pytest.raises(UserError, match=says):
        report.main([str(run), "--output", str(tmp_path / "out")])
    if (run / "config.json").exists():  # next to another run it is left out
        report.main([str(run), str(trained), "--output", str(tmp_path / "out")])
        warned = capsys.readouterr().err
        assert warned.startswith("warning: a run is left out: ") and re.search(says, warned)
        assert "<td>digits</td>" in (tmp_path / "out/report.html").read_text()


def test_an_output_that_cannot_be_written(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        report.main([str(trained), "--output", str(tmp_path / "file/x")])


def test_a_config_repeats_a_run(app: App, trained: Path, tmp_path: Path) -> None:
    app("train", "--config", trained / "config.json", "--output", tmp_path / "again")
    first, again = (json.loads((run / "result.json").read_text()) for run in (trained, tmp_path / "again"))
    assert first["top1_error"] == again["top1_error"]
    old, new = (json.loads((run / "config.json").read_text()) for run in (trained, tmp_path / "again"))
    assert {name for name in old if old[name] != new[name]} == {"output"}
    losses = [[x["loss"] for x in map(json.loads, (run / "log.jsonl").open())] for run in (trained, tmp_path / "again")]
    assert losses[0] == losses[1]


def test_folders_that_are_no_runs_are_left_out(trained: Path, tmp_path: Path, capsys: Any) -> None:
    """`report runs/*` leaves out folders without a run, such as that of a start that was refused."""
    (tmp_path / "refused").mkdir()
    (tmp_path / "refused/lock").touch()
    report.main([str(trained), str(tmp_path / "refused"), "--output", str(tmp_path / "out")])
    assert f"left out, because they contain no config.json: {tmp_path / 'refused'}" in capsys.readouterr().err
    with pytest.raises(UserError, match="is not a run"):
        report.main([str(trained), str(tmp_path / "missing"), "--output", str(tmp_path / "out")])
