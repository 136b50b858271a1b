#!/usr/bin/env bash
# build_horovod.sh PYTHON REQUIREMENT WHEELS [CUDA_HOME]: compiles the Horovod that the file REQUIREMENT names, with its hash and with
# the changes of horovod.patch, against the torch and the MPI that PYTHON sees, with NCCL if a CUDA toolkit is given, and leaves the
# wheel in the folder WHEELS.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$1 requirement=$2 wheels=$3 toolkit=${4:-}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
# Horovod's CMake splits paths at spaces. So it sees the virtual environment and our CMake files through a path without spaces.
ln -s "$(dirname "$(dirname "$python")")" "$work/venv"
cp "$here"/*.cmake "$work"
python=$work/venv/bin/python
PATH=$work/venv/bin:$PATH
torch=$("$python" -c 'import importlib.util; print(*importlib.util.find_spec("torch").submodule_search_locations)')

unset "${!HOROVOD_@}"
export HOROVOD_WITH_PYTORCH=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1 HOROVOD_WITH_GLOO=1 HOROVOD_WITH_MPI=1
if [ -n "$toolkit" ]; then
  export HOROVOD_GPU=CUDA HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_NCCL_LINK=SHARED
  export CUDA_HOME=$toolkit HOROVOD_CUDA_HOME=$toolkit
  PATH=$toolkit/bin:$PATH
  # Use the NCCL that torch loads. torch's NCCL package contains only libnccl.so.2, but the linker looks for libnccl.so. A vendor's torch
  # without this package uses the NCCL of the system, which CMake finds by itself.
  nccl=$(dirname "$torch")/nvidia/nccl
  if [ -d "$nccl" ]; then
    export HOROVOD_NCCL_HOME=$work/nccl
    mkdir -p "$work/nccl/lib"
    ln -s "$nccl/include" "$work/nccl/include"
    ln -s "$nccl/lib/libnccl.so.2" "$work/nccl/lib/libnccl.so"
  fi
fi

export CMAKE_TOOLCHAIN_FILE=$work/horovod.cmake
# torch's header refuses older compilers by `__cplusplus < 202002L`, which means C++20.
SETUP_CXX_STANDARD=$(sed -n 's/.*__cplusplus < 20\([0-9][0-9]\)[0-9]*L.*/\1/p' "$torch/include/ATen/ATen.h" | head -n 1)
export SETUP_CXX_STANDARD=${SETUP_CXX_STANDARD:?torch no longer says in ATen/ATen.h which C++ standard it needs}
# g++ 13 and newer no longer include these headers through others. CMake does not find Python.h from a virtual environment.
export CXXFLAGS="-include cstdint -include stdexcept -include string -include version ${CXXFLAGS:-}"
CPATH=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')${CPATH:+:$CPATH}
MAKEFLAGS=-j$(nproc)
LDFLAGS="-s ${LDFLAGS:-}"
# Open MPI may be in a folder that the system does not search.
for folder in $(mpicxx --showme:libdirs 2>/dev/null); do LDFLAGS+=" -Wl,-rpath,$folder"; done
export CPATH MAKEFLAGS LDFLAGS

pip() { "$python" -m pip --disable-pip-version-check "$@"; }
pip download --no-build-isolation --no-cache-dir --no-deps --no-binary horovod --dest "$work/archive" --require-hashes -r "$requirement"
mkdir "$work/source"
tar -C "$work/source" --strip-components 1 --no-same-owner -xf "$work"/archive/*.tar.gz
patch --directory "$work/source" --strip 1 --fuzz 0 <"$here/horovod.patch"
pip wheel --no-build-isolation --no-cache-dir --no-deps --no-index --wheel-dir "$work/wheel" "$work/source"
wheel=$(basename "$work"/wheel/*.whl)
mkdir -p "$wheels"
mv "$work/wheel/$wheel" "$wheels/new.$$"
mv "$wheels/new.$$" "$wheels/$wheel"
