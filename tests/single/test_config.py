"""The types, choices and limits of a config are checked on the command line, in files and in checkpoints."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.__main__ import main
from app.base.errors import UserError
from app.commands import benchmark, plan, train
from app.recipe.comparison import differences
from app.recipe.config import Config, default_of, flag, from_dict, option_fields, read_config, to_json
from app.recipe.options import resolve
from app.recipe.plan import describe, make_plan
from app.recipe.presets import PRESETS

ROOT = Path(__file__).parents[2]

BAD_FILES: list[tuple[Any, str]] = [
    ({"precision": "int8"}, "--precision is int8: "),
    ({"warmup": "gradul"}, "--warmup is gradul: did you mean gradual?"),
    ({"nesterov": "false"}, "--nesterov is false: give true or false"),
    ({"nesterov": 1}, "--nesterov is 1: give true or false"),
    ({"epochs": 2.5}, "--epochs is 2.5: give a whole number"),
    ({"epochs": True}, "--epochs is true: give a whole number"),
    ({"epochs": None}, "--epochs is null: give a whole number"),
    ({"ghost": 2}, "--ghost is 2: give text"),
    ({"ghost": "²"}, "--ghost is ²: give auto, off, or a number"),
    ({"scaling": "lin"}, "--scaling is lin: give one of linear, sqrt, none"),
    ({"data": 5}, "--data is 5: give text"),
    ({"data": "a\0b"}, '--data is "a'),
    ({"output": "\ud800"}, "--output is"),
    ({"decay_epochs": 3}, "--decay-epochs is 3: give a list"),
    ({"decay_epochs": ["a"]}, "--decay-epochs is a: give a number"),
    ({"decay_epochs": [3, 3]}, "--decay-epochs 3,3: give numbers above 0, each larger"),
    ({"model": "resnet51"}, "--model is resnet51: did you mean resnet50?"),
    ({"bn_eps": 10**400}, "--bn-eps is 1000"),
    ({"keep": 2**63}, "--keep is 9223372036854775808: give a whole number up to"),
    ({"allow_change": ["nothing"]}, "--allow-change: there is no option nothing"),
    ({"no\nsuch": 1}, "has no option"),
    ([1], "a config is an object"),
    (5, "a config is an object"),
    ("text", "a config is an object"),
]
BAD_OPTIONS = [
    "--seed 18446744073709551616",
    "--warmup-epochs inf",
    "--warmup-epochs nan",
    "--decay-epochs nan",
    "--decay-epochs 3,3",
    "--decay-epochs 1,,2",
    f"--minibatch {'9' * 400}",
    f"--minibatch {'9' * 5000}",
    f"--reference-lr {'9' * 400}",
    "--checkpoint-every nanm",
    "--checkpoint-every infh",
    f"--checkpoint-every {'9' * 400}",
    "--stall-timeout 1e300",
    "--decay-factor 1e308",
]


@pytest.mark.parametrize(("content", "says"), BAD_FILES, ids=lambda x: json.dumps(x)[:40])
def test_a_file_is_held_to_types_choices_and_limits(
    content: Any, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError) as refused:
        train.parse(["--config", str(file)])
    assert str(refused.value).startswith(f"{file}: ") and says in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    if isinstance(content, dict):  # this function reads the configs in checkpoints
        with pytest.raises(UserError):
            from_dict(content)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\xff", '{"seed": ' + "9" * 5000 + "}"], ids=lambda x: x[:9])
def test_a_file_that_is_no_json(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match="is not a config of this program"):
        read_config(tmp_path / "config.json")


@pytest.mark.parametrize("options", BAD_OPTIONS, ids=lambda x: x[:40])
def test_the_command_line_is_held_to_them(options: str) -> None:
    with pytest.raises(UserError) as refused:
        train.parse(options.split())
    assert options.split()[0] in str(refused.value) and len(str(refused.value).splitlines()) == 1


WITHOUT_EFFECT = [
    ("--data digits --resize 9", "--resize has no effect with --data digits: leave it out, or give another --data"),
    ("--data mnist --normalise data", "--normalise has no effect with --data mnist"),
    ("--synthetic-images 9", "--synthetic-images has no effect with --data digits"),
    ("--data-root /x", "--data-root has no effect with --data digits"),
    ("--model resnet50 --width 4", "--width has no effect with --model resnet50"),
    ("--trust-coefficient 2", "--trust-coefficient has no effect with --optimizer sgd"),
    ("--schedule cosine --decay-epochs 1,2", "--decay-epochs has no effect with --schedule cosine"),
    ("--schedule poly --decay-factor 0.5", "--decay-factor has no effect with --schedule poly"),
    ("--warmup none --warmup-epochs 2", "--warmup-epochs has no effect with --warmup none"),
]


@pytest.mark.parametrize(("options", "says"), WITHOUT_EFFECT)
@pytest.mark.parametrize("command", [train, plan, benchmark], ids=lambda module: module.__name__.split(".")[-1])
def test_an_option_without_effect_is_refused(command: Any, options: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^{says}"):
        command.parse(options.split())
    # The last option alone comes from a config file. It is not refused, so that what needs it can be overridden.
    name, value = options.split()[-2:]
    kind = type(default_of(name[2:].replace("-", "_")))
    content = {name[2:].replace("-", "_"): [1, 2] if kind is tuple else kind(value)}
    (tmp_path / "config.json").write_text(json.dumps(content))
    command.parse(["--config", str(tmp_path / "config.json"), *options.split()[:-2]])


@pytest.mark.parametrize(
    "options",
    [
        "--data synthetic --resize 32 --normalise data --synthetic-images 9 --synthetic-classes 3",
        "--data /folder --resize 300 --normalise data",
        "--data mnist --data-root /x",
        "--width 4 --decay-epochs 1,2 --decay-factor 0.5 --warmup-epochs 2",
        "--optimizer lars --trust-coefficient 2",
        "--recipe cluttered-digits --schedule cosine",  # the recipe has decay epochs
        "--warmup none --trust-coefficient 0.001 --synthetic-images 8192",  # the defaults
    ],
)
def test_an_option_with_an_effect_is_not_refused(options: str) -> None:
    train.parse(options.split())


def test_configs_in_docs_results_load() -> None:
    configs = []

    def collect(values: Any) -> None:
        if isinstance(values, dict):
            if {"recipe", "minibatch", "precision"} <= set(values):
                configs.append(from_dict(values))
            for value in values.values():
                collect(value)
        elif isinstance(values, list):
            for value in values:
                collect(value)

    for path in (ROOT / "docs/results").glob("*/*.json"):
        collect(json.loads(path.read_text()))
    assert configs


def test_a_config_file_of_an_earlier_version_is_of_the_same_recipe() -> None:
    """Earlier versions also stored values that follow from others. Their config files still give the same recipe."""
    new = Config(epochs=18)
    old = Config(epochs=18, decay_epochs=(6.0, 12.0, 16.0), image_size=8)
    assert differences(old, new) == {} == differences(new, old)
    assert set(differences(Config(decay_epochs=(1.0,)), new)) == {"decay_epochs", "epochs"}


def test_the_decay_epochs_of_a_config_file_stay_if_epochs_change(tmp_path: Path) -> None:
    for stored, decays in (((4.0, 8.0), (4.0, 8.0)), ((), (12.0, 24.0, 32.0)), ((6.0, 12.0, 16.0), (12.0, 24.0, 32.0))):
        file = tmp_path / "config.json"
        file.write_text(to_json(Config(epochs=18, decay_epochs=stored)))
        assert resolve({"config": str(file), "epochs": 36}, needs_data=False).decays == decays


def test_the_end_of_a_run_before_its_warmup_or_decays_is_said() -> None:
    options = ["--recipe", "paper-8k", "--epochs", "2"]
    late = resolve(vars(train.make_parser().parse([*options, "--decay-epochs", "1,2,30"])), needs_data=False)
    made = make_plan(late, 1_281_167, 50_000)
    assert made.decays == ((1.0, pytest.approx(0.1 * (0.1 + 3.1 / 5))),) and made.warmup_iterations == 312
    last = describe(made, late)[-1]
    assert "the run ends at epoch 2, in the warmup" in last and "no decay at epoch 2, 30" in last
    cosine = resolve(vars(train.make_parser().parse([*options, "--schedule", "cosine"])), needs_data=False)
    assert make_plan(cosine, 1_281_167, 50_000).decays == ()


def test_audit_says_what_the_end_of_the_run_cuts_off(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--recipe", "paper-8k", "--epochs", "3", "--decay-epochs", "2,30"]
    assert main(["audit", *options]) == 0
    shown = capsys.readouterr().out
    assert "--warmup-epochs 5: the run ends at epoch 3, in the warmup" in shown
    assert "(no decay at epoch 30, as the run ends at epoch 3)" in shown


# Strategies for arbitrary JSON values, and for values that are valid for some option.
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
JSON = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))
CHOICES = sorted({str(choice) for f in option_fields() for choice in f.metadata["choices"]} | set(PRESETS))
NEARLY = st.sampled_from([*CHOICES, 0, 1, -1, 32, 64, 0.5, 1e308, 2**63, "5m", "2", "auto", [1.0, 2.0], ["epochs"]])
NAMES = st.sampled_from([f.name for f in option_fields()])
FUZZ = settings(max_examples=1000, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


def holds(config: Config) -> None:
    """Check that `make_plan` accepts a valid config, and that the config is equal after it was written and read."""
    assert read_back(config) == config
    describe(make_plan(config, max(config.minibatch, config.precise_bn, 1000), 100), config)


def read_back(config: Config) -> Config:
    """Write a config as JSON and return the config that is read from it."""
    return from_dict(json.loads(to_json(config)))


@FUZZ
@given(st.dictionaries(NAMES, NEARLY | JSON, max_size=5) | JSON)
def test_any_file_gives_a_config_or_a_user_error(content: Any) -> None:
    try:
        config = from_dict(content)
    except UserError as error:
        assert len(str(error).splitlines()) == 1
    else:
        holds(config)


@settings(FUZZ, max_examples=500)  # fewer cases than in other tests, because a parser is slow to make
@given(st.lists(st.tuples(NAMES, NEARLY.map(str) | st.text(max_size=8) | st.floats().map(str)), max_size=4))
def test_any_command_line_gives_a_config_or_a_user_error(options: list[tuple[str, str]]) -> None:
    words = [f"{flag(name)}={value}" for name, value in options if name != "resume"]
    try:
        config = train.parse(words)
    except UserError as error:
        assert str(error)
    else:
        holds(config)
