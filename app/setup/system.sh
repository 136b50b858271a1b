# Check and install what the machine itself must have: tools, headers, and a host name with an address.
# shellcheck shell=bash disable=SC2154

# Horovod's gloo looks up its own host name, and ends with a segmentation fault if it has no address.
require_host_name() {
  local name
  name=$(uname -n)
  getent ahosts "$name" >/dev/null && return
  fail "This machine's own name, $name, has no address, and Horovod cannot start without one. As root:
  echo '127.0.0.1 $name' >> /etc/hosts      # of several machines: their real address instead of 127.0.0.1"
}

# usable_python PYTHON: prints the interpreter of PYTHON if it can make a virtual environment and has the headers for compiling.
usable_python() {
  "$1" - 2>/dev/null <<'PYTHON'
import ensurepip, os, sys, sysconfig, venv
assert (3, 11) <= sys.version_info < (3, 14)
assert os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h"))
print(os.path.realpath(sys._base_executable))
PYTHON
}

# python_path PYTHON|.: prints the absolute path of that Python; . is the python3 of the active environment.
python_path() {
  local path=$1
  if [ "$path" = . ]; then path=python3; fi
  path=$(command -v "$path") || return
  printf '%s/%s' "$(cd "$(dirname "$path")" && pwd)" "$(basename "$path")"
}

find_python() {
  local candidate
  for candidate in /usr/bin/python3 python3 python3.13 python3.12 python3.11; do
    usable_python "$candidate" && return
  done
  return 1
}

has_header() { printf '#include <stdio.h>\n#include <%s>\n' "$1" | g++ -E -x c++ - >/dev/null 2>&1; }

# Prints Debian's names of the missing packages. On other systems, these names help to find the packages.
missing_packages() {
  command -v g++ >/dev/null || echo g++
  command -v make >/dev/null || echo make
  command -v patch >/dev/null || echo patch
  command -v mpirun >/dev/null || echo openmpi-bin
  command -v mpicxx >/dev/null || echo libopenmpi-dev
  command -v ssh >/dev/null || echo openssh-client
  has_header jpeglib.h || echo libjpeg-dev
  has_header zlib.h || echo zlib1g-dev
  [ -n "$torch" ] || find_python >/dev/null || printf '%s\n' python3-venv python3-dev
}

install_system_tools() {
  local packages
  mapfile -t packages < <(missing_packages)
  [ ${#packages[@]} -gt 0 ] || return 0
  if ! command -v apt-get >/dev/null; then
    fail "Missing on this machine (by their Debian names): ${packages[*]}. Install them, then start again."
  elif [ "$(id -u)" != 0 ]; then
    fail "Missing on this machine: ${packages[*]}. Run this once, then start again:
  sudo apt-get update && sudo apt-get install -y --no-install-recommends ${packages[*]}"
  fi
  say "Installing with apt-get: ${packages[*]}"
  logged "apt-get install ${packages[*]}" apt_install "${packages[@]}"
  mapfile -t packages < <(missing_packages)
  [ ${#packages[@]} -eq 0 ] || fail "Still missing after apt-get: ${packages[*]} (Python must be 3.11, 3.12 or 3.13)."
}

# This also works after an earlier apt-get was killed. Its dpkg may still be running, and must finish first.
apt_install() {
  export DEBIAN_FRONTEND=noninteractive
  for _ in {1..150}; do
    [[ $(dpkg --configure -a 2>&1 | tee /dev/stderr) == *"locked by another process"* ]] || break
    sleep 2
  done
  apt-get update && apt-get install -y --fix-broken --no-install-recommends -o DPkg::Lock::Timeout=300 "$@"
}
