"""Objects that processes send to one another are unpacked unchanged, and no bytes can run code."""

import ast
import pickle
import subprocess
from pathlib import Path

import pytest

from app.base.errors import CorruptImage, UserError
from app.recipe.plan import Position
from app.world.packing import pack, unpack, unpack_all
from tests.support.programs import ROOT

HONEST = [
    None,
    (Position(3, 640), [(0.25, 0.5), (0.125, 0.25)]),
    (Path("/runs/digits"), None),
    {"seconds": [1.5, None], "by": {1: ("a", True), 2: b"\0\xff"}},
    ("caf\xe9", {1, 2}, frozenset({3})),
]


@pytest.mark.parametrize("sent", HONEST, ids=str)
def test_honest_objects(sent: object) -> None:
    received = unpack(pack(sent))
    assert received == sent
    assert type(received) is type(sent)


def test_errors_keep_their_kind_and_words() -> None:
    error = CorruptImage("images/1.jpg: no image")
    error.everywhere = True
    received = unpack(pack((None, error)))[1]
    assert (type(received), str(received), received.everywhere) == (CorruptImage, "images/1.jpg: no image", True)


def test_objects_that_follow_one_another() -> None:
    assert unpack_all(b"".join(map(pack, HONEST)), len(HONEST)) == HONEST


class Evil:
    def __init__(self, function: object, *arguments: object) -> None:
        self.what = function, arguments

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return self.what


def test_bytes_that_would_run_code(tmp_path: Path) -> None:
    reached = tmp_path / "reached"
    for function, *arguments in [
        (subprocess.check_call, ["touch", str(reached)]),
        (exec, f"open({str(reached)!r}, 'w')"),
        (getattr, UserError, "__subclasses__"),
        (Path.touch, reached),
        (subprocess.Popen, ["touch", str(reached)]),
    ]:
        sent = pickle.dumps(Evil(function, *arguments))
        with pytest.raises(pickle.UnpicklingError, match="which is not read"):
            unpack(sent)
    assert not reached.exists()


@pytest.mark.parametrize("name", ["Path", "subprocess", "UserError.__init__", "pickle"])
def test_names_of_our_own_modules_that_are_not_ours(name: str) -> None:
    """A message may not name what a module of the app has only imported, because this could run code."""
    for module in ("app.base.errors", "app.world.packing", "app.base.failure"):
        with pytest.raises(pickle.UnpicklingError):
            unpack(f"c{module}\n{name}\n.".encode())


def test_nothing_else_reads_bytes_that_can_run_code() -> None:
    """No file of app/ calls a function that runs code from data. torch.load and np.load read plain data only."""
    allowed = {"torch.load": "weights_only=True", "np.load": "allow_pickle=False"}
    banned = {
        "pickle.load",
        "pickle.loads",
        "cloudpickle.loads",
        "yaml.load",
        "eval",
        "exec",
        "os.system",
        "joblib.load",
    }
    seen = set()
    for path in sorted((ROOT / "app").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                words = [f"{word.arg}={ast.unparse(word.value)}" for word in node.keywords]
                assert name not in banned and "shell=True" not in words, f"{path}:{node.lineno}"
                if name in allowed:
                    assert allowed[name] in words, f"{path}:{node.lineno}"
                    seen.add(name)
    assert seen == set(allowed)
