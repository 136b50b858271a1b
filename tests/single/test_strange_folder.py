"""run.sh does not import modules of the folder in which it is started, because another user may have put them there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.programs import ROOT, environ


def test_modules_of_the_folder_are_not_imported(tmp_path: Path) -> None:
    """Modules in the folder in which run.sh is started are not imported, although Python would import them.

    The test uses a copy of run.sh, with a set-up that does nothing and the `python` of the tests.
    """
    project, strange = tmp_path / "project", tmp_path / "strange"
    for name, script in (
        ("app/setup/setup.sh", "exec python3 -c 'import json'"),
        (".venv/bin/python", f'exec "{sys.executable}" "$@"'),
    ):
        (project / name).parent.mkdir(parents=True)
        (project / name).write_text(f"#!/bin/sh\n{script}\n")
        (project / name).chmod(0o755)
    shutil.copy(ROOT / "run.sh", project)
    strange.mkdir()
    for module in ("argparse", "json", "shlex", "torch"):
        (strange / f"{module}.py").write_text(f"open({str(tmp_path / 'reached')!r}, 'w')")
    for words in (["--version"], ["--dry-run", "train"], ["--launcher", "none", "plan"]):
        done = subprocess.run([project / "run.sh", *words], cwd=strange, env=environ(), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout
    assert not (tmp_path / "reached").exists()
    subprocess.run([sys.executable, "-m", "app.start", "--version"], cwd=strange, env=environ(), capture_output=True)
    assert (tmp_path / "reached").exists()  # without run.sh, Python imports the modules of the folder
    assert os.environ.get("PYTHONSAFEPATH") is None
