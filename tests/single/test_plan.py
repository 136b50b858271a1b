"""`plan` as a user runs it, compared with the paper's times and with calculations by hand."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from app.base.errors import UserError
from app.commands.plan import main, parse, time_rows
from app.forecast.forecast import JITTER, Work, step_time
from app.forecast.interconnect import Cluster, Link
from app.forecast.model_size import network_size
from app.forecast.plot import make_figure
from app.recipe.data_size import data_size
from app.recipe.plan import make_plan
from tests.support.programs import run

ROOT = Path(__file__).resolve().parents[2]
PAPER = ["--recipe", "paper-8k", "--gpus", "8,256,352", "--gpus-per-host", "8", "--images-per-second", "138"]
PAPER += ["--network", "50Gbit", "--json"]
CLUSTER = Cluster(8, Link(6.25e9, 15e-6), Link(20e9, 5e-6), "hierarchical")


def plan(capsys: pytest.CaptureFixture[str], *argv: str) -> Any:
    main([*argv, "--json"])
    return json.loads(capsys.readouterr().out)


def test_without_torch_or_matplotlib() -> None:
    code = (
        "import sys; from app.__main__ import main; code = main(sys.argv[1:]);"
        "heavy = {'torch', 'numpy', 'matplotlib', 'horovod', 'sklearn'} & set(sys.modules);"
        "assert not heavy, heavy; sys.exit(code)"
    )
    assert json.loads(run(sys.executable, "-c", code, "plan", *PAPER).stdout)["k"] == 256


def test_arithmetic_of_paper_8k(capsys: pytest.CaptureFixture[str]) -> None:
    result = plan(capsys, *PAPER)
    assert (result["k"], result["n"], result["kn"], result["eta"]) == (256, 32, 8192, 0.1)
    assert result["peak_lr"] == pytest.approx(3.2)
    assert result["iterations"] == 156 * 90 == 14040
    assert result["dropped_per_epoch"] == 1281167 - 156 * 8192 == 3215
    rates = [(rate["iteration"], rate["epoch"], pytest.approx(rate["lr"])) for rate in result["rates"]]
    assert rates == [(0, 0, 0.1), (780, 5, 3.2), (4680, 30, 0.32), (9360, 60, 0.032), (12480, 80, 0.0032)]


def test_the_papers_times(capsys: pytest.CaptureFixture[str]) -> None:
    """The plan agrees with the times in sections 1 and 5.5 and in Figures 7 and 8: 29 h on 8 GPUs, 1 h on 256."""
    result = plan(capsys, *PAPER)
    on_8, on_256, on_352 = result["rows"]
    assert [row["gpus"] for row in result["rows"]] == [8, 256, 352]
    assert [row["minibatch"] for row in result["rows"]] == [256, 8192, 11264]
    assert on_8["hours"] == pytest.approx(29, rel=0.01)
    assert on_8["efficiency"] == pytest.approx(1)
    assert on_256["hours"] == pytest.approx(1, rel=0.05)
    assert on_352["seconds_per_step"] / on_8["seconds_per_step"] == pytest.approx(1.12, abs=0.001)
    assert on_352["efficiency"] == pytest.approx(0.9, abs=0.01)
    assert on_352["seconds_per_epoch"] == pytest.approx(30, rel=0.03)
    for row in result["rows"]:
        assert 0.2 < row["seconds_per_step"] < 0.3
        images = 1281167 // row["minibatch"] * row["minibatch"] * 90
        assert row["hours"] == pytest.approx(images / row["images_per_second"] / 3600)


def test_most_of_the_allreduce_hides(capsys: pytest.CaptureFixture[str]) -> None:
    for row in plan(capsys, *PAPER)["rows"]:
        assert row["allreduce_seconds"] < 0.001


def test_fixed_minibatch(capsys: pytest.CaptureFixture[str]) -> None:
    """Without jitter and network, a step takes as long as the GPU with the most workers needs."""
    free = ("--jitter", "0", "--network", "1000000Gbit", "--latency", "0.000001us", "--local-network", "1000000Gbit")
    rows = plan(capsys, *PAPER[:-1], *free, "--local-latency", "0.000001us", "--gpus", "1,3,8,256,257")["rows"]
    fixed = [row["fixed_minibatch"] for row in rows]
    assert [part and part["workers_per_gpu"] for part in fixed] == [256, 86, 32, 1, None]
    assert fixed[1]["seconds_per_step"] == pytest.approx(86 * 32 / 138)
    assert fixed[2]["hours"] == pytest.approx(14040 * 8192 / 8 / 138 / 3600)
    assert fixed[1]["efficiency"] == pytest.approx(256 / 3 / 86)
    assert rows[3]["seconds_per_step"] == pytest.approx(fixed[3]["seconds_per_step"]) == pytest.approx(32 / 138)


def test_jitter_is_calibrated_on_352() -> None:
    def increase(jitter: float) -> float:
        work = Work(32, 138, 8, 4 * (25557032 + 53120), jitter)
        return step_time(work, CLUSTER, 352).seconds / step_time(work, CLUSTER, 8).seconds

    assert increase(0.0) < 1.005  # the allreduce alone adds less than 0.5 %
    assert increase(JITTER - 0.0001) < 1.12 < increase(JITTER + 0.0001)


def test_straggler_of_several_workers() -> None:
    """With 4 workers on each GPU the straggler is twice as long: 4 independent times vary twice as much as one."""
    work = Work(32, 138, 1, 1e8, 0.05)
    one, four = step_time(work, CLUSTER, 64), step_time(work, CLUSTER, 64, 4)
    assert four.straggler == pytest.approx(2 * one.straggler)
    assert four.compute == pytest.approx(4 * 32 / 138)
    assert four.exposed == one.exposed


@pytest.mark.parametrize(
    "options",
    [
        ("--network", "5Gbit"),
        ("--latency", "2ms"),
        ("--local-network", "1Gbit"),
        ("--local-latency", "2ms"),
        ("--allreduce", "ring"),
        ("--no-overlap",),
    ],
)
def test_slower(capsys: pytest.CaptureFixture[str], options: tuple[str, ...], tmp_path: Path) -> None:
    """Each option makes a step on 256 GPUs slower, if the rate was measured on one GPU."""
    file = tmp_path / "one.json"
    file.write_text(json.dumps({"images_per_second": 150, "processes": 1}))
    base = ("--recipe", "paper-8k", "--gpus", "256", "--benchmark", str(file))
    row, slow = plan(capsys, *base)["rows"][0], plan(capsys, *base, *options)["rows"][0]
    assert slow["allreduce_seconds"] > 1.02 * row["allreduce_seconds"]
    assert slow["seconds_per_step"] > row["seconds_per_step"]


def test_gpus_per_host(capsys: pytest.CaptureFixture[str]) -> None:
    """`--gpus-per-host` decides the number of servers.

    The speed of a GPU is taken as one that was measured with all GPUs of a server, so there the efficiency is 1.
    """
    result = plan(capsys, *PAPER[:-1], "--gpus-per-host", "4", "--gpus", "4,9")
    assert [row["hosts"] for row in result["rows"]] == [1, 3]
    assert result["rate"]["measured_on_gpus"] == 4
    assert result["rows"][0]["efficiency"] == pytest.approx(1)


def test_benchmark_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """For 8 GPUs the plan predicts exactly the rate that `benchmark` measured on 8 processes."""
    file = tmp_path / "result.json"
    file.write_text(json.dumps({"images_per_second": 1104.0, "processes": 8}))
    measured = plan(capsys, "--recipe", "paper-8k", "--benchmark", str(file), "--gpus", "8,256")
    assert measured["rate"] == {"images_per_second_per_gpu": 138.0, "measured_on_gpus": 8}
    assert measured["rows"] == plan(capsys, *PAPER[:-1])["rows"][:2]


def test_own_data(capsys: pytest.CaptureFixture[str]) -> None:
    result = plan(capsys, "--recipe", "digits")
    assert (result["images"], result["k"], result["rows"]) == (1077, 8, [])
    assert plan(capsys, "--recipe", "digits", "--images", "12800")["iterations"] == 100 * 30
    gpus = [row["gpus"] for row in plan(capsys, "--recipe", "digits", "--images-per-second", "1000")["rows"]]
    assert gpus == [8, 16, 32, 64]  # the data set has images for at most 89 workers of 16 images


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--recipe", "paper-8k"])
    text = capsys.readouterr().out
    assert "k = 256 workers of n = 32 images, kn = 8192" in text
    assert "3.2 from step 780 (epoch 5)" in text
    assert "activations 2.75 GB" in text
    assert "time: give --images-per-second" in text
    main(PAPER[:-1])
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.split()[:2] == ["256", "8192"]]
    assert rows == [["256", "8192", "0.2578", "0.0008", "0.0516", "90.0%", "1.01", "1", "0.2578", "1.01"]]


def test_the_axis_of_a_steps_time_starts_at_0() -> None:
    request = parse(PAPER)
    data = data_size(request.config)
    plan = make_plan(request.config, data.images, data.validation_images)
    network = network_size(request.config, data.image_size, data.channels, data.classes)
    rows = time_rows(request, plan, network)
    left = make_figure(rows, "x").axes[0]
    assert left.get_ylabel() == "time of a step (s)"
    assert left.get_ylim()[0] == 0 and left.get_ylim()[1] > max(row.seconds_per_step for row in rows)


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_plot_twice_is_the_same(tmp_path: Path, ending: str) -> None:
    files = [tmp_path / f"{i}.{ending}" for i in range(2)]
    for file in files:
        main([*PAPER, "--plot", str(file)])
    first, second = (file.read_bytes() for file in files)
    assert first == second
    assert len(first) > 5000


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--gpus 8,x", "--gpus 8,x: give numbers above 0"),
        ("--gpus 0", "give numbers above 0"),
        ("--network fast", "'fast' is not a bandwidth"),
        ("--latency 3", "'3' is not a time: write it like 15us"),
        ("--jitter 2", "--jitter from 0 to 0.5"),
        ("--images -1", "give --images"),
        ("--plot a.png", "--plot needs a measured speed"),
        ("--images-per-second 1 --plot a.jpeg", "ends in .png, .svg or .pdf"),
        ("--images-per-second 1 --plot /nowhere/a.png", "cannot write --plot /nowhere/a.png"),
        ("--images-per-second 1 --benchmark x", "not allowed with"),
        ("--benchmark /nowhere.json", "cannot read --benchmark /nowhere.json"),
        ("--gpu 8", "unknown option --gpu: did you mean --gpus?"),
        ("--resume x", "unknown option --resume"),
        ("--images-per-second 1 --gpus 90", "give at most 67 GPUs"),
        ("--data /nowhere", "no such data folder: /nowhere"),
    ],
)
def test_mistakes(argv: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        main(argv.split())
    assert message in str(error.value)
    assert "\n" not in str(error.value)


BENCHMARKS = [
    "[]", "{}", "no json", '{"images_per_second": 0, "processes": 1}', '{"images_per_second": 1e999, "processes": 1}',
    '{"images_per_second": 1, "processes": 1e999}', "[" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("content", BENCHMARKS, ids=lambda text: text[:50])
def test_no_benchmark(tmp_path: Path, content: str) -> None:
    file = tmp_path / "file.json"
    file.write_text(content)
    with pytest.raises(UserError, match="lacks images_per_second or processes"):
        parse(["--benchmark", str(file)])
