"""Folders of app/ import only folders below them, in the order of docs/design.md."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

APP = Path(__file__).parents[2] / "app"
# A folder may import the folders of earlier lines, but not the other folders of its own line.
ORDER = [
    {"base"},
    {"storage"},
    {"data"},
    {"recipe"},
    {"forecast"},
    {"hosts"},
    {"model", "world"},
    {"prepare", "runs"},
    {"training"},
    {"trained", "bench"},
    {"launch"},
    {"doctor", "reproduce"},
    {"commands"},
]
FOLDERS = sorted(set().union(*ORDER))
NO_TORCH = {"base", "recipe", "forecast", "hosts", "launch"}
HEAVY = {"torch", "torchvision", "numpy"}
IN_A_RANK = {"horovod", "mpi4py"}
OUTSIDE_RANKS = {
    "hosts/libraries.py",
    "launch/elastic_driver.py",
    "launch/horovodrun.py",
    "launch/horovodrun_ranks.py",
}  # these programs run outside of ranks and import Horovod
ENTRY_POINTS = APP / "base" / "program.py"  # the only file that names app.__main__ and app.start
MODULE = re.compile(r"app(\.\w+)+")


def names_in(path: Path) -> Iterator[str]:
    """Return the modules that a file imports or names in a string (importlib, `python -m`)."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and MODULE.fullmatch(node.value):
            yield node.value


def allowed(folder: str) -> set[str]:
    """Return the folders from which the files of a folder may import."""
    at = next(i for i, line in enumerate(ORDER) if folder in line)
    return {folder}.union(*ORDER[:at])


def test_every_folder_has_its_place() -> None:
    assert sorted({path.parent.name for path in APP.glob("*/*.py")}) == FOLDERS


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_go_down(folder: str) -> None:
    for path in (APP / folder).rglob("*.py"):
        for name in names_in(path):
            first, _, rest = name.partition(".")
            if first == "app" and rest and path != ENTRY_POINTS:
                assert rest.split(".")[0] in allowed(folder), f"{path.name} imports {name}"
            if folder in NO_TORCH and str(path.relative_to(APP)) not in OUTSIDE_RANKS:
                assert first not in HEAVY, f"{path.name} imports {name}"
            if first in IN_A_RANK:
                assert folder == "world" or str(path.relative_to(APP)) in OUTSIDE_RANKS, f"{path.name} imports {name}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_folder_is_crowded(folder: str) -> None:
    assert len([path for path in (APP / folder).iterdir() if path.is_file()]) <= 16


def test_imports_by_name_are_seen(tmp_path: Path) -> None:
    file = tmp_path / "example.py"
    file.write_text('import importlib\nimportlib.import_module("app.commands.plan")\nrun(["-m", "app.launch.job"])\n')
    assert {"app.commands.plan", "app.launch.job"} <= set(names_in(file))


def test_no_class_name_is_defined_twice() -> None:
    trees = [ast.parse(path.read_text()) for path in APP.rglob("*.py")]
    classes = [node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assert sorted({name for name in classes if classes.count(name) > 1}) == []
