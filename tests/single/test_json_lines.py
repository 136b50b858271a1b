"""log.jsonl has each record once, also after an interruption, after a full disk, and after damaged lines."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.recipe.plan import Position
from app.runs.json_lines import EVALUATION, NUMBERS, TRAIN, JsonLines, read_lines
from tests.support.disks import small_disk

PER_EPOCH = 4  # steps in an epoch, of 10 images each


def record(kind: str, epoch: int, step: int) -> dict[str, Any]:
    numbers = dict.fromkeys(NUMBERS[kind], 0.5) | ({"steps": 1} if kind == TRAIN else {})
    return {"kind": kind, "epoch": epoch, "seen": 10 * step, "iteration": epoch * PER_EPOCH + step, **numbers}


def whole_run(epochs: int) -> list[dict[str, Any]]:
    found = []
    for epoch in range(epochs):
        found += [record(TRAIN, epoch, step) for step in range(1, PER_EPOCH + 1)]
        found.append(record(EVALUATION, epoch, PER_EPOCH))
    return found


def write(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in records))


@pytest.mark.parametrize(
    ("start", "kept"),
    [
        (Position(0, 0), 0),
        (Position(0, 20), 2),
        (Position(0, 40), 4),  # the checkpoint was made before the evaluation
        (Position(1, 0), 5),
        (Position(1, 10), 6),
        (Position(2, 0), 10),
    ],
)
def test_a_run_that_goes_on_keeps_what_it_will_not_write_again(start: Position, kept: int, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    write(path, whole_run(2))
    log = JsonLines(path, start)
    for line in whole_run(2)[kept:]:
        log.write(line)
    log.close()
    assert read_lines(path) == whole_run(2)


def test_a_file_is_only_replaced_if_its_start_changes(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    write(path, whole_run(2))
    before = path.stat().st_ino
    JsonLines(path, Position(2, 0)).close()
    JsonLines(path, Position(0, 20)).close()
    assert path.stat().st_ino == before and read_lines(path) == whole_run(2)[:2]
    path.write_bytes(b"5\n" + path.read_bytes())
    JsonLines(path, Position(0, 20)).close()
    assert path.stat().st_ino != before and path.read_bytes() == b"".join(
        json.dumps(each).encode() + b"\n" for each in whole_run(2)[:2]
    )


DAMAGE = [b"5", b"{}", b"\xff", b"[" * 100_000, b'"x"', b"null", b'{"kind": []}', b'{"kind": "train"}', b"", b"\0" * 10]
DAMAGE += [json.dumps(record(TRAIN, 0, 1) | change).encode() for change in (
    {"loss": "low"}, {"loss": None}, {"epoch": 1.5}, {"iteration": -1}, {"steps": True}, {"loss": 10**400},
    {"kind": "other"}, {"iteration": 10**400},
)]  # fmt: skip


def test_lines_that_are_no_records_are_left_out_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    good = [json.dumps(line).encode() for line in whole_run(1)]
    path.write_bytes(b"\n".join([*good[:2], *DAMAGE, *good[2:], b'{"kind": "tra']))
    said: list[str] = []
    assert read_lines(path, said.append) == whole_run(1)
    assert len(said) == 1 and f"{len(DAMAGE)} of {len(DAMAGE) + 5} lines are damaged" in said[0] and "line 3" in said[0]
    log = JsonLines(path, Position(1, 0), said.append)
    log.write(record(TRAIN, 1, 1))
    log.close()
    assert len(said) == 2
    assert read_lines(path, said.append) == [*whole_run(1), record(TRAIN, 1, 1)] and len(said) == 2


def test_any_damage_leaves_the_other_lines(tmp_path: Path) -> None:
    path, draw = tmp_path / "log.jsonl", random.Random(1)
    lines = [json.dumps(line).encode() for line in whole_run(1)]
    for _ in range(1000):
        at, damaged = draw.randrange(len(lines)), bytearray(lines[0])
        for _ in range(draw.randint(1, 8)):
            damaged[draw.randrange(len(damaged))] = draw.choice(b'{}[]",:0e-\\\xff\n\0 t')
        path.write_bytes(b"\n".join([*lines[:at], bytes(damaged), *lines[at:], b""]))
        found = read_lines(path, lambda text: None)
        assert [line for line in found if line in whole_run(1)] == whole_run(1) or bytes(damaged) == lines[0]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a file system of 64 KiB."""
    with small_disk(tmp_path / "small", "64k") as disk:
        yield disk


def test_a_full_disk_doubles_and_loses_nothing(disk: Path) -> None:
    path, records = disk / "log.jsonl", whole_run(200)
    log, refused = JsonLines(path, Position()), 0
    (disk / "ballast").write_bytes(bytes(32768))
    for number, line in enumerate(records):
        if number == 300:
            (disk / "ballast").unlink()
        try:
            log.write(line)
        except OSError:
            refused += 1
        if path.stat().st_size > 40_000:
            records = records[: number + 1]
            break
    log.close()
    assert refused > 10
    assert read_lines(path) == records


def test_what_a_full_disk_refuses_to_rewrite_stays(disk: Path) -> None:
    path = disk / "log.jsonl"
    write(path, whole_run(30))
    lines = path.read_bytes().splitlines(keepends=True)
    (disk / "ballast").write_bytes(bytes(65536 - path.stat().st_size - 8192))
    JsonLines(path, Position(29, 0)).close()  # the end of the file is cut off, which needs no space
    kept = path.read_bytes().splitlines(keepends=True)
    assert kept == lines[: len(kept)] and json.loads(kept[-1])["epoch"] == 28
    with path.open("r+b") as file:
        file.write(b"5")  # damages the first line
    before = path.read_bytes()
    with pytest.raises(OSError, match="No space left"):
        JsonLines(path, Position(29, 0))
    assert path.read_bytes() == before and not list(disk.glob("*.tmp"))
