# The virtual environment and the packages that pip puts into it.
# shellcheck shell=bash disable=SC2154

pip() { "$python" -m pip --disable-pip-version-check --no-input "$@"; }

# pin PACKAGE: the version that requirements.txt gives it.
pin() { sed -n "s/^\(# stock: \)\{0,1\}$1==\([^ ]*\).*/\2/p" "$root/requirements.txt"; }

make_venv() {
  local base key
  base=$(find_python)
  key="$root $base"
  is_done venv "$key" && return
  say "Making $venv with $base"
  rm -rf "$venv"
  write "$finished/choices" "$operations $pillow"
  logged "making the virtual environment" "$base" -m venv "$venv"
  # `python -m app` by hand, from any folder and under any launcher.
  printf '%s\n' "$root" >"$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/run_from_here.pth"
  write "$finished/venv" "$key"
}

# pip writes RECORD last and asks only for METADATA: what it was installing or removing when it was killed counts as installed.
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

# Three things of requirements.txt need a hand: Horovod is compiled after torch is there, and pip would quietly put stock Pillow
# over Pillow-SIMD, so that goes in last and is what torchvision's wish for "pillow" is tested against.
install_requirements() {
  local key list=$finished/requirements.txt
  key="$pillow $(sha256sum <"$root/requirements.txt")"
  is_done requirements "$key" && return
  grep -v -E '^(horovod|pillow-simd)==' "$root/requirements.txt" >"$list"
  [ "$pillow" = simd ] || sed -i -e '/^pillow==/d' -e 's/^# stock: //' "$list"
  say "Installing requirements.txt, with torch $(pin torch): 5.5 GB on a new machine"
  logged "pip uninstall" pip uninstall -y pillow pillow-simd
  logged "pip install -r requirements.txt" pip install -r "$list"
  if [ "$pillow" = simd ]; then
    logged "building Pillow-SIMD" pip install --no-deps --no-build-isolation --force-reinstall "pillow-simd==$(pin pillow-simd)"
  fi
  write "$finished/requirements" "$key"
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
