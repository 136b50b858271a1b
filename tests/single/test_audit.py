"""`audit` finds each choice of the paper that a recipe follows or does not follow."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.base.errors import UserError
from app.commands.audit import main
from app.recipe.audit import CHOICES, DEVIATES, FOLLOWED, REMARKS, SILENT, audit, audit_claim, in_short
from app.recipe.config import Config, from_dict, option_fields, to_json
from app.recipe.presets import preset
from tests.support.fork_server import fork_of
from tests.support.programs import run

ROOT = Path(__file__).resolve().parents[2]
IMAGENET = 1281167
PAPER = from_dict(preset("paper-8k"))
# Fields of Config that describe data or networks which the paper does not use.
NO_CHOICES = {"seed", "width", "downsample", "synthetic_images", "synthetic_classes"}


def deviations(config: Config, images: int = IMAGENET) -> dict[str, str]:
    return {f.name: f.here for f in audit(config, images) if f.status == DEVIATES}


@pytest.mark.parametrize("name", [f"paper-{size}" for size in ("64", "128", "256", "512", "1k", "2k", "4k", "8k")])
def test_the_papers_recipes_follow(name: str) -> None:
    config = from_dict(preset(name))
    assert deviations(config) == {}
    assert deviations(replace(config, image_size=224)) == {}
    assert in_short(audit(config, IMAGENET)) == ["audit: 25 of 25 remarks and choices of the paper followed"]


CHANGES: list[tuple[dict[str, Any], str, str]] = [
    ({"scaled": "loss"}, "remark 1", "--scaled loss"),
    ({"momentum_correction": False}, "remark 2", "--momentum-correction False"),
    ({"loss_divisor": "n"}, "remark 3", "--loss-divisor n"),
    ({"shuffle": "worker"}, "remark 4", "--shuffle worker"),
    ({"model": "resnet18"}, "model", "--model resnet18"),
    ({"minibatch": 16384}, "minibatch", "kn = 16384"),
    ({"per_worker": 64}, "per worker", "--per-worker 64"),
    ({"reference_lr": 0.2}, "reference", "--reference-lr 0.2"),
    ({"reference_minibatch": 512}, "reference", "--reference-minibatch 512"),
    ({"scaling": "sqrt"}, "scaling", "--scaling sqrt"),
    ({"warmup": "none"}, "warmup", "--warmup none (Table 1 compares it: 24.84 +- 0.37)"),
    ({"warmup": "constant"}, "warmup", "(Table 1 compares it: 25.88 +- 0.56)"),
    ({"warmup_epochs": 2.0}, "warmup", "--warmup gradual over 2 epochs"),
    ({"epochs": 100, "decay_epochs": (30.0, 60.0, 80.0)}, "epochs", "--epochs 100"),
    ({"decay_epochs": (10.0, 20.0)}, "decays", "--decay-epochs 10,20"),
    ({"decay_factor": 0.2}, "decays", "--decay-factor 0.2"),
    ({"momentum": 0.8}, "momentum", "--momentum 0.8"),
    (
        {"schedule": "cosine"},
        "decays",
        "--schedule cosine (Loshchilov and Hutter 2017): the learning rate falls along half a cosine, to 0 at the end",
    ),
    ({"optimizer": "lars"}, "beyond", "beyond this paper: --optimizer lars (You, Gitman and Ginsburg 2017)"),
    ({"label_smoothing": 0.1}, "beyond", "--label-smoothing 0.1 (Szegedy et al. 2016)"),
    ({"nesterov": False}, "momentum", "--nesterov False"),
    ({"weight_decay": 3e-3}, "weight decay", "--weight-decay 0.003"),
    ({"decay_bn": True}, "weight decay of BN", "--decay-bn True"),
    ({"sync_bn": True}, "BN statistics", "--sync-bn True"),
    ({"bn_momentum": 0.2}, "BN running average", "--bn-momentum 0.2"),
    ({"precise_bn": 8192}, "BN running average", "--precise-bn 8192"),
    ({"last_gamma": 1.0}, "last gamma", "--last-gamma 1.0"),
    ({"fc_std": 0.1}, "last layer", "--fc-std 0.1"),
    ({"augmentation": "none"}, "augmentation", "--augmentation none"),
    ({"grey": True}, "normalisation", "--grey"),
    ({"image_size": 128}, "image size", "--image-size 128"),
    ({"precision": "fp64"}, "arithmetic", "--precision fp64"),
    ({"compression": "fp16"}, "arithmetic", "--compression fp16"),
]


@pytest.mark.parametrize(("change", "name", "here"), CHANGES, ids=lambda x: str(x) if isinstance(x, dict) else "")
def test_each_deviation(change: dict[str, Any], name: str, here: str) -> None:
    found = deviations(replace(PAPER, **change))
    assert set(found) == {name}
    assert here in found[name]


def test_decays_that_the_run_does_not_reach() -> None:
    given = replace(PAPER, decay_epochs=(30.0, 60.0, 80.0))
    assert deviations(replace(given, epochs=40)) == {
        "epochs": "--epochs 40",
        "decays": "--decay-epochs 30,60,80 (no decay at epoch 60, 80, as the run ends at epoch 40)",
    }
    assert "no decay at epoch 80" in deviations(replace(given, epochs=80))["decays"]
    assert set(deviations(replace(given, epochs=81))) == {"epochs"}


def test_data() -> None:
    config = replace(PAPER, data="digits")
    assert deviations(config, 1077) == {
        "data": "digits, 1,077 training images",
        "image size": "the size of the data set's images",
    }


def test_no_warmup_is_needed_at_the_reference() -> None:
    assert deviations(replace(from_dict(preset("paper-256")), warmup="none")) == {}


def test_every_option_is_audited() -> None:
    """Every option that changes what is computed must be named in app/recipe/audit.py, or in this file."""
    audited = {name for choice in (*REMARKS, *CHOICES) for name in choice.fields} | set(SILENT)
    assert {f.name for f in option_fields() if not f.metadata["free"]} - audited == NO_CHOICES


def test_open_choices_say_what_ours_are() -> None:
    text = {f.name: f.here for f in audit(replace(PAPER, resize=288), IMAGENET)}
    assert "288 pixels" in text["resize"]
    assert text["bn eps"] == "BN's epsilon is 1e-05"


def test_only_who_names_the_paper_is_audited() -> None:
    assert audit_claim(PAPER, IMAGENET) == audit(PAPER, IMAGENET)
    assert audit_claim(Config(), 1077) == in_short([]) == []


def test_command_on_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--recipe", "paper-8k", "--momentum", "0.8"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "audit: 24 of 25 remarks and choices of the paper followed"
    assert [line.split()[0] for line in lines[1:5]] == [FOLLOWED] * 4
    assert [line for line in lines if line.startswith(DEVIATES)] == [
        "deviates  5.1  momentum                0.9, in Nesterov's form: --momentum 0.8"
    ]


def test_command_on_a_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(to_json(replace(PAPER, data="/imagenet", image_size=224)))
    (tmp_path / "plan.json").write_text(json.dumps({"images": 1000, "validation_images": 50_000}))
    main([str(tmp_path), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [f["here"] for f in found if f["status"] == DEVIATES] == ["/imagenet, 1,000 training images"]


@pytest.mark.parametrize("plan", ["[]", '{"images": "x"}', '{"images": null}', "[" * 100_000, "{"])
def test_a_run_with_a_damaged_plan(plan: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(to_json(Config()))
    (tmp_path / "plan.json").write_text(plan)
    with pytest.raises(UserError, match=r"plan\.json is damaged"):
        main([str(tmp_path)])


def test_a_run_says_and_keeps_its_audit(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A run with a recipe `paper-*` prints a summary of its audit. The command `audit` finds the same in its folder."""
    folder = tmp_path / "run"
    options = "--recipe paper-256 --data synthetic --model resnet8 --image-size 32 --synthetic-images 32"
    options += f" --synthetic-classes 4 --minibatch 32 --epochs 1 --device cpu --output {folder}"
    done = run(*fork_of("-m", "app"), "train", *options.split())
    assert "audit: 20 of 25 remarks and choices of the paper followed" in done.stdout
    assert "  deviates: image size: --image-size 32; paper (section 5.1): 224 x 224" in done.stdout
    kept = json.loads((folder / "audit.json").read_text())
    assert {f["name"] for f in kept if f["status"] == DEVIATES} == {"data", "model", "epochs", "decays", "image size"}
    main([str(folder), "--json"])
    assert json.loads(capsys.readouterr().out) == kept


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give the folder of a run"):
        main([str(tmp_path)])
    (tmp_path / "config.json").write_text(to_json(PAPER))
    with pytest.raises(UserError, match=r"cannot read .*plan\.json"):
        main([str(tmp_path)])
    with pytest.raises(UserError, match="leave out the options"):
        main([str(tmp_path), "--momentum", "0.8"])
