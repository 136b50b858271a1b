"""Malicious archives and journals are refused in one line, and reading them takes little memory."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from app.base.errors import UserError
from app.prepare.journal import Journal
from app.prepare.output_folder import open_output
from app.storage.archives import list_any_members, list_members
from app.storage.devkit import read_devkit

MIB = 2**20


def header_bomb(size: int) -> bytes:
    """Return the first header of a tar archive. It announces a file name of `size` bytes in GNU's form."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, size
    return info.tobuf(tarfile.GNU_FORMAT)


def peak_of_refusal(path: Path, read: object) -> int:
    """Call `read`, which must refuse the file with a message of one line. Return the peak of memory in bytes."""
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


@pytest.mark.parametrize("read", [lambda name: list_members(name, r".*"), list_any_members], ids=["ImageNet", "shard"])
@pytest.mark.parametrize("kind", ["GNU", "PAX"])
def test_an_archive_with_a_huge_header_is_refused(kind: str, read: object, tmp_path: Path) -> None:
    path = tmp_path / "train.tar"
    info = tarfile.TarInfo("name")
    info.type, info.size = tarfile.XHDTYPE, 500 * MIB
    header = header_bomb(500 * MIB) if kind == "GNU" else info.tobuf(tarfile.PAX_FORMAT)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(600 * MIB)  # a sparse file, which takes no space
    assert peak_of_refusal(path, read) < 8 * MIB


def test_damaged_archives_are_listed_or_refused(tmp_path: Path) -> None:
    """A damaged archive is refused in one line, or all listed members are within the archive and have safe paths."""
    path, whole = tmp_path / "train.tar", io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("a/1.jpg", "a/2.jpg", "a/" + "long" * 40 + ".jpg", "é/3.jpg", "b/4.jpg"):
            info = tarfile.TarInfo(name)
            info.size = 700
            tar.addfile(info, io.BytesIO(bytes(700)))
    generator, refused = np.random.default_rng(0), 0
    for case in range(600):
        damaged = bytearray(whole.getvalue()[: None if case % 3 else int(generator.integers(10_000))])
        for _ in range(int(generator.integers(1, 4)) if case % 3 else 0):
            block = int(generator.integers(len(damaged) // 512)) * 512
            damaged[block + int(generator.integers(512))] = int(generator.integers(256))
            if case % 2:  # correct the header's checksum
                header = damaged[block : block + 512]
                total = 256 + sum(header[:148]) + sum(header[156:])
                damaged[block + 148 : block + 156] = b"%06o\0 " % total
        path.write_bytes(damaged)
        try:
            for member in list_any_members(str(path)):
                assert 0 <= member.offset <= member.offset + member.size <= len(damaged)
                assert not member.name.startswith("/") and ".." not in member.name.split("/")
        except UserError as error:
            assert str(path) in str(error)
            refused += 1
    assert 100 < refused < 600


def test_a_long_name_within_the_limit_is_read(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        info = tarfile.TarInfo("n" * 300)
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    [member] = list_members(str(tmp_path / "a.tar"), r"n+")
    assert (len(member.name), member.size) == (300, 3)


def test_lines_of_a_journal_that_are_no_records_do_not_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "journal.jsonl"
    deep = "[" * 100_000 + "]" * 100_000
    lines = [b'{"part": 1}', b"5", deep.encode(), b"\xff\xfe", b'{"a":' * 50_000, b"", b'{"part": 2}', b'{"part": 3']
    path.write_bytes(b"\n".join(lines))
    journal = Journal(path)
    assert journal.records == [{"part": 1}, {"part": 2}]
    warned = capsys.readouterr().err
    assert warned == f"warning: {path}: 5 of 7 lines are damaged: their part of the work is repeated\n"
    journal.append({"part": 3})
    journal.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"part": 1}, {"part": 2}, {"part": 3}]


def test_a_folder_whose_settings_are_damaged(tmp_path: Path) -> None:
    settings = {"images": "some", "resize": 0}
    path = tmp_path / "out/.pack.jsonl"
    with open_output(tmp_path / "out", "pack", settings, "with other options") as journal:
        journal.append({"part": "train-00000.tar", "bytes": 3})
    path.write_text("#" + path.read_text())
    for _ in range(2):  # the cause is named again in the next attempt
        with (
            pytest.raises(
                UserError, match=r"the first line of .*/\.pack\.jsonl is damaged, which says with which options"
            ),
            open_output(tmp_path / "out", "pack", settings, "with other options"),
        ):
            pass
