"""Functions that read files accept any content: they return a result or raise a UserError of one line.

tests/single/test_config.py tests this for options.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is not installed: ./run.sh test installs it")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from app.base.errors import UserError  # noqa: E402
from app.model.weights import read_file, state_dict_of  # noqa: E402
from app.prepare.journal import Journal  # noqa: E402
from app.recipe.config import Config, option_fields, read_config  # noqa: E402
from app.recipe.data_size import image_size  # noqa: E402
from app.recipe.plan import Position, describe, make_plan  # noqa: E402
from app.runs.json_lines import NUMBERS, JsonLines, read_lines  # noqa: E402
from app.training import checkpoint  # noqa: E402
from tests.support.fuzz import cases  # noqa: E402

NAMES = [f.name for f in option_fields()]
TIMES = settings(
    max_examples=cases(500), deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.integers(min_value=-3, max_value=300),
    st.sampled_from([10**400, -(10**400), 2**63, 2**64, 1e308, 1e-320, float("inf"), "nan", "infm", "1e9h", ""]),
    *[st.sampled_from(f.metadata["choices"]) for f in option_fields() if f.metadata["choices"]],
)  # fmt: skip
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=3), st.dictionaries(st.text(max_size=3), SCALARS, max_size=2))


def one_line(error: UserError) -> None:
    assert str(error) and "\n" not in str(error), str(error)


def use(config: Config) -> None:
    """Use a config as every command does: make a plan for 1,000 images and describe it."""
    plan = make_plan(config, 1000, 100)
    assert describe(plan, config)
    image_size(config)


@TIMES
@given(values=st.one_of(st.binary(max_size=40), st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=3)))
def test_config_files(values: Any, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(values if isinstance(values, bytes) else json.dumps(values).encode())
    try:
        use(read_config(file))
    except UserError as error:
        one_line(error)


JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
)
LINES = st.one_of(
    st.binary(max_size=30),
    st.just(b"[" * 50_000),
    st.dictionaries(
        st.sampled_from(["kind", "epoch", "seen", "iteration", "loss", "lr", "steps", "path", "time"]), JSON, max_size=6
    ).map(lambda record: json.dumps(record).encode()),
)


@settings(TIMES, max_examples=cases(200))
@given(lines=st.lists(LINES, max_size=4), epoch=st.integers(0, 3))
def test_logs(lines: list[bytes], epoch: int, tmp_path: Path) -> None:
    """A log with any lines can be read and continued. Lines that are not records are left out."""
    file = tmp_path / "log.jsonl"
    file.write_bytes(b"\n".join(lines))
    said: list[str] = []
    read_lines(file, said.append)
    log = JsonLines(file, Position(epoch, 0), said.append)
    numbers = dict.fromkeys(NUMBERS["train"], 1.0)
    log.write({"kind": "train", "epoch": epoch, "seen": 8, "iteration": 1, **numbers, "steps": 1})
    log.close()
    assert read_lines(file, said.append)[-1]["iteration"] == 1


@TIMES
@given(lines=st.lists(LINES, max_size=4))
def test_journals(lines: list[bytes], tmp_path: Path) -> None:
    file = tmp_path / "journal"
    file.write_bytes(b"\n".join(lines))
    journal = Journal(file)
    journal.append({"path": "a"})
    journal.close()
    again = Journal(file)
    again.close()
    assert again.records == journal.records and again.records[-1] == {"path": "a"}


PARTS = ["format", "model", "momentum", "loss_scale", "position", "errors", "config", "classes", "fingerprint",
         "image_size", "mean", "std", "versions"]  # fmt: skip


@settings(TIMES, max_examples=cases(200))
@given(content=st.one_of(JSON, st.dictionaries(st.sampled_from(PARTS), JSON, max_size=13)), checked=st.booleans())
def test_checkpoints(content: Any, checked: bool, tmp_path: Path) -> None:
    """A checkpoint with random content is refused with a message of one line, even if its checksum is right."""
    file = tmp_path / "last.pt"
    if isinstance(content, dict):
        content = {"format": checkpoint.FORMAT, **content}
        if checked:
            content["checksum"] = checkpoint.digest(content)
    torch.save(content, file)
    with pytest.raises(UserError) as caught:  # random content is never a complete checkpoint
        checkpoint.read(file)
    one_line(caught.value)


def nested() -> list[Any]:
    """Return a list that contains itself."""
    content: list[Any] = []
    content.append(content)
    return content


@pytest.mark.parametrize(
    "odd",
    [
        lambda: torch.zeros(1).expand(2**38),  # this tensor would take a terabyte, but its file has only a kilobyte
        lambda: torch.eye(3).to_sparse(),
        lambda: torch.eye(3).to_sparse_csr(),
        lambda: torch.zeros(3, device="meta"),
        lambda: torch.zeros(2, dtype=torch.complex64).conj(),
        lambda: torch.quantize_per_tensor(torch.zeros(3), 1.0, 0, torch.qint8),
        nested,
    ],
    ids=["huge", "sparse", "csr", "meta", "conjugate", "quantized", "nested"],
)
@pytest.mark.filterwarnings("ignore")
def test_checkpoints_and_weights_with_odd_content(odd: Any, tmp_path: Path) -> None:
    file = tmp_path / "last.pt"
    torch.save({"format": checkpoint.FORMAT, "model": {"fc.weight": odd()}, "checksum": ""}, file)
    with pytest.raises(UserError, match="unusual tensors") as caught:
        checkpoint.read(file)
    one_line(caught.value)
    torch.save({"fc.weight": odd()}, file)
    with pytest.raises(UserError) as caught:
        state_dict_of(read_file(file), file)
    one_line(caught.value)
