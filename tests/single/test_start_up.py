"""A run and its launcher do not import certain modules, because importing them takes long and it does not need them."""

import sys
from pathlib import Path

from tests.support.programs import run


def test_a_run_does_not_import_what_it_does_not_need(tmp_path: Path) -> None:
    code = (
        "import sys; from app.__main__ import end, main; code = main(sys.argv[1:]);"
        "slow = {'torch._dynamo', 'sympy', 'torchvision', 'sklearn', 'scipy'} & set(sys.modules);"
        "assert not slow, slow; end(code)"
    )
    options = ["train", "--epochs", "1", "--width", "4", "--device", "cpu", "--output", str(tmp_path / "run")]
    run(sys.executable, "-c", code, *options)


def test_horovodrun_does_not_import_torch() -> None:
    words = ["-m", "app.launch.horovodrun", "-np", "1", "--gloo", "--network-interfaces", "lo", "true"]
    imported = run(sys.executable, "-X", "importtime", *words).stderr  # of its child processes too
    assert "horovod.runner.launch" in imported and "torch" not in imported
