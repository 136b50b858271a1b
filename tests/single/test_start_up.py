"""What a run does not import, because importing it takes long and the run does not need it."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_run_does_not_import_what_it_does_not_need(tmp_path: Path) -> None:
    code = (
        "import sys; from app.__main__ import main; code = main(sys.argv[1:]);"
        "slow = {'torch._dynamo', 'sympy', 'torchvision', 'sklearn', 'scipy'} & set(sys.modules);"
        "assert not slow, slow; sys.exit(code)"
    )
    options = ["train", "--epochs", "1", "--width", "4", "--device", "cpu", "--output", str(tmp_path / "run")]
    done = subprocess.run([sys.executable, "-c", code, *options], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
