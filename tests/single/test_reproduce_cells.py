"""The cells of `reproduce` agree with the paper's tables, and the commands that train them have their configs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from reproduce_cells import IMAGENET, OUR_IMAGES, OURS, PAPER, cells

from app.base.errors import UserError
from app.commands.reproduce import main, parse
from app.commands.train import parse as parse_train
from app.recipe import paper
from app.recipe.audit import DEVIATES, audit
from app.recipe.comparison import differences
from app.recipe.config import from_dict
from app.recipe.options import arguments
from app.recipe.presets import PRESETS, preset
from app.recipe.schedule import peak_lr, warms_up
from app.reproduce import experiments
from app.reproduce.experiments import EXPERIMENTS
from app.reproduce.runs import key, run_of


def test_table_1_on_imagenet_is_the_papers() -> None:
    found = [(c.config.minibatch, c.config.per_worker, peak_lr(c.config), c.config.warmup) for c in cells("table-1")]
    assert found == [
        (256, 32, 0.1, "gradual"),
        (8192, 32, pytest.approx(3.2), "none"),
        (8192, 32, pytest.approx(3.2), "constant"),
        (8192, 32, pytest.approx(3.2), "gradual"),
    ]
    assert [warms_up(c.config) for c in cells("table-1")] == [False, False, True, True]


def test_figure_1_on_imagenet_is_the_papers() -> None:
    assert [c.config.minibatch for c in cells("figure-1")] == [64 * 2**i for i in range(11)]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_cell_next_to_a_number_of_the_paper_trains_as_it_did(name: str) -> None:
    """If a table shows a row of the paper next to a cell, the cell has the minibatch and learning rate of this row.

    The cell follows all other choices of the paper, except those that the table compares.
    """
    compared = {"table-2b": {"last gamma"}, "table-1": {"warmup"}, "table-2a": {"reference", "scaling"}}
    for cell in cells(name):
        if cell.paper:
            assert cell.config.minibatch == cell.paper.minibatch, cell.name
            assert peak_lr(cell.config) == pytest.approx(cell.paper.lr), cell.name
            deviations = {f.name for f in audit(cell.config, IMAGENET) if f.status == DEVIATES}
            allowed = compared.get(name, {"warmup", "scaling"})
            assert deviations <= allowed | ({"minibatch"} if cell.config.minibatch > 8192 else set()), cell.name


def test_all_rows_of_the_papers_tables_are_there() -> None:
    for name, rows in (("table-1", paper.TABLE_1.values()), ("table-2a", paper.TABLE_2A), ("table-2b", paper.TABLE_2B)):
        assert [c.paper for c in cells(name)] == list(rows)
    assert tuple(c.paper for c in cells("figure-1")[3:]) == paper.FIGURE_1[3:]


def test_other_data_get_the_same_multiples_of_their_baseline() -> None:
    assert experiments.large(PAPER) == 32
    found = {c.config.minibatch: peak_lr(c.config) for c in cells("figure-1", OURS, OUR_IMAGES)}
    assert found == {16 * 2**i: pytest.approx(0.1 * 2**i) for i in range(9)}
    assert [c.config.per_worker for c in cells("figure-1", OURS, OUR_IMAGES)] == [16] + [32] * 8
    assert {c.config.minibatch for c in cells("table-1", OURS, OUR_IMAGES)} == {32, 32 * experiments.large(OURS)}


@pytest.mark.parametrize(
    ("name", "cell", "changed"),
    [
        ("remarks", 1, {"scaled": "loss"}),
        ("remarks", 2, {"momentum_correction": False}),
        ("remarks", 3, {"loss_divisor": "n"}),
        ("remarks", 4, {"shuffle": "worker"}),
        ("claims", 1, {"per_worker": 8192}),
        ("claims", 2, {"weight_decay": 32e-4}),
        ("claims", 3, {"weight_decay": 1e-4 / 32}),
        ("claims", 4, {"scaling": "sqrt"}),
        ("table-2b", 0, {"last_gamma": 1.0, "minibatch": 256}),
        ("table-2b", 2, {"last_gamma": 1.0}),
    ],
)
def test_a_broken_cell_differs_in_what_it_breaks_alone(name: str, cell: int, changed: dict[str, Any]) -> None:
    large = cells("table-1")[3].config
    assert set(differences(large, cells(name)[cell].config)) == set(changed)
    for field, value in changed.items():
        assert getattr(cells(name)[cell].config, field) == pytest.approx(value)


def test_runs_shared_between_tables_have_one_folder() -> None:
    everything = [c.config for name in EXPERIMENTS for c in cells(name, OURS, OUR_IMAGES)]
    folders = {run_of(config, Path("runs")).folder for config in everything}
    assert len(everything) == 62 and len(folders) == 31
    assert key(OURS) == key(replace(OURS, seed=3, keep=9, output="x", device="cpu", recipe="digits"))
    # A new option, whose default changes nothing, must not change the names of existing runs.
    assert key(OURS) == "2875bea50c43"
    assert len({key(c) for c in (OURS, replace(OURS, data="/else"), replace(OURS, width=9), PAPER)}) == 4
    assert run_of(replace(OURS, seed=3), Path("runs")).folder.name == f"{key(OURS)}-s3"


@pytest.mark.parametrize("name", PRESETS)
def test_a_runs_command_line_gives_its_config(name: str) -> None:
    config = replace(from_dict(preset(name)), data="/some where", schedule="step")
    assert parse_train(arguments(config)) == config
    odd = replace(
        config, nesterov=False, decay_epochs=(1.5, 2.0), fusion_mb=-1.0, cycle_ms=0.5, allow_change=("width",)
    )
    assert parse_train(arguments(odd)) == odd
    unused = replace(
        odd, schedule="cosine", optimizer="sgd", trust_coefficient=0.5
    )  # the command line would refuse these two options
    assert parse_train(arguments(unused)) == replace(
        unused, decay_epochs=from_dict(preset(name)).decay_epochs, trust_coefficient=0.001
    )


def test_the_command_line() -> None:
    found = parse(["table-1"])
    assert (found.names, found.seeds, found.base) == (("table-1",), 5, OURS)
    assert found.output == Path("runs/reproduce/table-1")
    found = parse(["all", "--data", "/imagenet", "--launch", "-np 8 -H a:8", "--seeds", "3", "--seed", "7"])
    assert found.names == tuple(EXPERIMENTS) and found.base == replace(PAPER, seed=7)
    assert (found.jobs, found.launch, found.seeds) == (1, ["-np", "8", "-H", "a:8"], 3)
    for wrong in (["table-3"], ["all", "--seeds", "0"], ["all", "--jobs", "-1"], ["all", "--launch", "train"]):
        with pytest.raises(UserError, match=r"--seeds|--jobs|--launch|did you mean table-1"):
            parse(wrong)


def test_data_that_cannot_be_listed_are_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=str(tmp_path / "none")):
        main(["table-1", "--data", str(tmp_path / "none"), "--runs", str(tmp_path / "runs")])


def test_beyond_has_lars_where_sgd_breaks() -> None:
    found = cells("beyond")
    plain, lars = ([c for c in found if c.name.startswith(name)] for name in ("SGD", "LARS"))
    assert [c.config for c in plain] == [c.config for c in cells("figure-1")]
    assert {c.config.minibatch: peak_lr(c.config) for c in lars} == {
        8192: pytest.approx(2.9 / 4), 16384: pytest.approx(1.45), 32768: pytest.approx(2.9), 65536: pytest.approx(5.8),
    }  # fmt: skip
    same = {c.config.minibatch: c.config for c in plain}
    for cell in lars:
        other = same[cell.config.minibatch]
        assert cell.config == replace(other, optimizer="lars", reference_lr=cell.config.reference_lr)


def test_the_claims_of_beyond() -> None:
    found = EXPERIMENTS["beyond"].claims(cells("beyond", OURS, OUR_IMAGES))
    assert [(claim.kind, claim.first, claim.second) for claim in found] == [
        ("lower", f"LARS, kn = {size}", f"SGD, kn = {size}") for size in (1024, 2048, 4096)
    ]
