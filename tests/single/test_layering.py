"""Arrows only go down: commands -> reproduce -> training -> (data, model, cluster) -> recipe."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

APP = Path(__file__).parents[2] / "app"
BELOW = {
    "recipe": set(),
    "data": {"recipe"},
    "model": {"recipe"},
    "cluster": {"recipe"},
    "training": {"recipe", "data", "model", "cluster"},
    "reproduce": {"recipe", "data", "model", "cluster", "training"},
    "commands": {"recipe", "data", "model", "cluster", "training", "reproduce"},
}
HOROVOD = {"horovod", "mpi4py"}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("layer", BELOW)
def test_layer(layer: str) -> None:
    files = list((APP / layer).rglob("*.py"))
    assert files
    for path in files:
        for name in imports(path):
            first, _, rest = name.partition(".")
            if first == "app" and rest:
                assert rest.split(".")[0] in BELOW[layer] | {layer}, f"{path.name} imports {name}"
            assert first not in HOROVOD or layer == "cluster", f"{path.name} imports {name}"
            if layer == "recipe":
                assert first not in {"torch", "numpy", "torchvision"}, f"{path.name} imports {name}"
