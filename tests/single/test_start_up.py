"""A run does not import certain modules, because importing them takes long and it does not need them."""

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
