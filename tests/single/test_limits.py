"""Archives and journals that were made to do harm are refused in one line, with bounded memory."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from app.base.errors import UserError
from app.prepare.journal import Journal
from app.storage.archives import list_members
from app.storage.devkit import read_devkit

MIB = 2**20


def header_bomb(size: int) -> bytes:
    """Return the start of a tar whose first member has a name of `size` bytes in GNU's form, then these bytes."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, size
    return info.tobuf(tarfile.GNU_FORMAT)


def peak_of_refusal(path: Path, read: object) -> int:
    """Return the largest number of bytes that Python held while `read` refused the file in one line."""
    tracemalloc.start()
    with pytest.raises(UserError) as error:
        read(str(path))  # type: ignore[operator]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    return peak


def test_a_devkit_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "devkit.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(header_bomb(300 * MIB))
        for _ in range(300):
            file.write(bytes(MIB))
    assert path.stat().st_size < 2 * MIB
    assert peak_of_refusal(path, read_devkit) < 150 * MIB


@pytest.mark.parametrize("kind", ["GNU", "PAX"])
def test_an_archive_with_a_huge_header_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "train.tar"
    info = tarfile.TarInfo("name")
    info.type, info.size = tarfile.XHDTYPE, 500 * MIB
    header = header_bomb(500 * MIB) if kind == "GNU" else info.tobuf(tarfile.PAX_FORMAT)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(600 * MIB)  # sparse: it takes no space
    assert peak_of_refusal(path, lambda name: list_members(name, r".*")) < 8 * MIB


def test_a_long_name_within_the_limit_is_read(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        info = tarfile.TarInfo("n" * 300)
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    [member] = list_members(str(tmp_path / "a.tar"), r"n+")
    assert (len(member.name), member.size) == (300, 3)


def test_lines_of_a_journal_that_are_no_records_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    deep = "[" * 100_000 + "]" * 100_000
    lines = [b'{"part": 1}', b"5", deep.encode(), b"\xff\xfe", b'{"a":' * 50_000, b"", b'{"part": 2}', b'{"part": 3']
    path.write_bytes(b"\n".join(lines))
    journal = Journal(path)
    assert journal.records == [{"part": 1}, {"part": 2}]
    journal.append({"part": 3})
    journal.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"part": 1}, {"part": 2}, {"part": 3}]
