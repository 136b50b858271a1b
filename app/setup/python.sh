# The virtual environment and the packages that pip puts into it.
# shellcheck shell=bash disable=SC2154

pip() { "$python" -m pip --disable-pip-version-check --no-input "$@"; }

# Every file that pip installs must have a hash that the requirements file names.
pip_install() { pip install --require-hashes "$@"; }

# requirement PACKAGE FILE: prints the version and the hashes that a requirements file gives to PACKAGE.
requirement() {
  awk -v start="$1==" 'index($0, start) == 1 { found = 1 } found { print } found && !/\\$/ { exit }' "$root/$2"
}

# pin PACKAGE FILE: prints the version that a requirements file gives to PACKAGE.
pin() { requirement "$1" "$2" | sed -n '1s/^[^=]*==\([^ ]*\).*/\1/p'; }

# Checks that the Python of --torch can be used, before anything is changed.
check_torch() {
  usable_python "$torch" >/dev/null ||
    fail "setup --torch: $torch cannot be used: it must be Python 3.11, 3.12 or 3.13 with the module venv and Python.h (python3-dev)."
  has_torch "$torch" ||
    fail "setup --torch: $torch must have torch 2.6 or newer and the torchvision that belongs to it. Install them there first."
}

make_venv() {
  local base key site
  base=$(if [ -n "$torch" ]; then usable_python "$torch"; else find_python; fi)
  key="$root $base${torch:+ $torch}"
  is_done venv "$key" && return
  say "Making $venv with $base"
  rm -rf "$venv"
  write "$finished/choices" "$choices"
  logged "making the virtual environment" "$base" -m venv "$venv"
  site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  # This makes `python -m app` work in any folder and under any launcher.
  printf '%s\n' "$root" >"$site/run_from_here.pth"
  # Packages of the other Python come after those of the virtual environment.
  [ -z "$torch" ] || package_folders "$torch" >"$site/torch_from_there.pth"
  write "$finished/venv" "$key"
}

has_torch() {
  "$1" - <<'PYTHON' 2>/dev/null
from importlib.metadata import version
assert tuple(map(int, version("torch").split("+")[0].split(".")[:2])) >= (2, 6)
version("torchvision")
PYTHON
}

package_folders() {
  "$1" -c 'import pathlib, sys; print(*[p for p in sys.path if pathlib.Path(p).name in ("site-packages", "dist-packages")], sep="\n")'
}

# pip writes the file RECORD of a package last, but considers the package as installed if METADATA exists, even if pip was killed
# while it installed or removed the package. This function removes the metadata of such packages, so that pip installs them again.
forget_half_installed() {
  "$python" - <<'PYTHON'
import csv, pathlib, shutil, sysconfig
site = pathlib.Path(sysconfig.get_path("purelib"))
for info in site.glob("*.dist-info"):
    record = info / "RECORD"
    if not record.exists() or not all((site / row[0]).exists() for row in csv.reader(record.open(encoding="utf-8"))):
        shutil.rmtree(info)
PYTHON
}

# Pillow-SIMD is installed last, because pip would silently overwrite it with stock Pillow, which torchvision requires as "pillow".
# Stock Pillow, which was installed before, meets this requirement.
install_requirements() {
  local key list=$finished/requirements.txt
  key="$pillow${torch:+ $torch} $(cat "$root/requirements.txt" "$root/requirements-source.txt" | sha256sum)"
  is_done requirements "$key" && return
  # nvImageCodec was installed by earlier versions. Its licence allows it only next to NVIDIA's GPUs and CPUs.
  logged "pip uninstall" pip uninstall -y pillow pillow-simd nvidia-nvimgcodec-cu12
  requirements_here >"$list"
  if [ -z "$torch" ]; then
    say "Installing requirements.txt, with torch $(pin torch requirements.txt): 5.5 GB on a new machine"
    logged "pip install -r requirements.txt" pip_install -r "$list"
  else
    say "Installing what $torch lacks"
    logged "pip install -r $list" pip_install --no-deps -r "$list"
  fi
  if [ "$pillow" = simd ]; then
    requirement pillow-simd requirements-source.txt >"$finished/pillow-simd.txt"
    logged "building Pillow-SIMD" pip_install --no-deps --no-build-isolation --force-reinstall -r "$finished/pillow-simd.txt"
    pillow_notice
  fi
  write "$finished/requirements" "$key"
}

pillow_notice() {
  say "Pillow-SIMD $(pin pillow-simd requirements-source.txt) lacks the fix of CVE-2026-112403: decode only images that you trust, such as" \
    "ImageNet with its checksums. For other images: ./run.sh setup --stock-pillow"
}

# Prints the requirements to install: those of requirements.txt, with the stock Pillow if --stock-pillow is given, and without the
# packages that the Python of --torch has. Packages that belong to torch are never installed then. The packages that compile others
# are always installed, because a new virtual environment contains an old setuptools.
requirements_here() {
  local stock
  stock=$([ "$pillow" = simd ] || requirement pillow requirements-source.txt)
  "$python" - "$root/requirements.txt" "$torch" "$stock" <<'PYTHON'
import importlib.metadata, pathlib, re, sys
file, torch, stock = sys.argv[1:]
installed = {re.sub("[-_.]+", "-", d.name).lower() for d in importlib.metadata.distributions()} if torch else set()
for requirement in re.findall(r"^[a-z](?:.*\\\n)*.*\n", pathlib.Path(file).read_text(), re.MULTILINE):
    name = requirement.split("==")[0]
    if name in ("cmake", "pybind11", "setuptools", "wheel"):
        print(requirement, end="")
    elif name == "pillow" and stock:
        print(stock)
    elif not torch or not (name in installed or re.match("torch|torchvision|triton|cuda-|nvidia-", name)):
        print(requirement, end="")
PYTHON
}

# Installs what the tests and linters need, for `./run.sh test`.
install_test_tools() {
  [ -w "$venv" ] || fail "The tools of the tests cannot be installed into $venv: it cannot be written. In a container: docker run --user 0 ..."
  say "Installing requirements-test.txt, for the tests"
  logged "pip install -r requirements-test.txt" pip_install --no-deps -r "$root/requirements-test.txt"
  write "$finished/tests" "$test_tools"
}

installed_versions() {
  "$python" - <<'PYTHON'
import platform
import horovod, horovod.torch as hvd, PIL, torch
built = [name for name in ("gloo", "mpi", "nccl") if getattr(hvd, name + "_built")()]
pillow = ("Pillow-SIMD " if "post" in PIL.__version__ else "Pillow ") + PIL.__version__
print(f"Python {platform.python_version()}, torch {torch.__version__}, Horovod {horovod.__version__} ({', '.join(built)}), {pillow}")
PYTHON
}
