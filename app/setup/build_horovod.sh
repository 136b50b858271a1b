#!/usr/bin/env bash
# build_horovod.sh PYTHON VERSION WHEELS [CUDA_HOME]: compiles Horovod against the torch and the MPI that PYTHON sees, with NCCL
# if a CUDA toolkit is given, and leaves the wheel in the folder WHEELS.
set -euo pipefail
python=$1 version=$2 wheels=$3 toolkit=${4:-}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
# Horovod's CMake splits paths at blanks: it sees the virtual environment and our CMake files through a path without any.
ln -s "$(dirname "$(dirname "$python")")" "$work/venv"
cp "$(dirname "${BASH_SOURCE[0]}")"/*.cmake "$work"
python=$work/venv/bin/python
PATH=$work/venv/bin:$PATH
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

unset "${!HOROVOD_@}"
export HOROVOD_WITH_PYTORCH=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1 HOROVOD_WITH_GLOO=1 HOROVOD_WITH_MPI=1
if [ -n "$toolkit" ]; then
  export HOROVOD_GPU=CUDA HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_NCCL_LINK=SHARED HOROVOD_NCCL_HOME=$work/nccl
  export CUDA_HOME=$toolkit HOROVOD_CUDA_HOME=$toolkit
  PATH=$toolkit/bin:$PATH
  # torch's NCCL package has libnccl.so.2 only; the linker looks for libnccl.so.
  mkdir -p "$work/nccl/lib"
  ln -s "$site/nvidia/nccl/include" "$work/nccl/include"
  ln -s "$site/nvidia/nccl/lib/libnccl.so.2" "$work/nccl/lib/libnccl.so"
fi

export CMAKE_TOOLCHAIN_FILE=$work/horovod.cmake
# torch's header refuses older compilers by `__cplusplus < 202002L`, which means C++20.
SETUP_CXX_STANDARD=$(sed -n 's/.*__cplusplus < 20\([0-9][0-9]\)[0-9]*L.*/\1/p' "$site/torch/include/ATen/ATen.h" | head -n 1)
export SETUP_CXX_STANDARD=${SETUP_CXX_STANDARD:?torch no longer says in ATen/ATen.h which C++ standard it needs}
# Headers which g++ 13 and newer no longer include by the way, and Python.h, which CMake misses in a virtual environment.
export CXXFLAGS="-include cstdint -include stdexcept -include string -include version ${CXXFLAGS:-}"
CPATH=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')${CPATH:+:$CPATH}
MAKEFLAGS=-j$(nproc)
export CPATH MAKEFLAGS LDFLAGS="-s ${LDFLAGS:-}"

"$python" -m pip --disable-pip-version-check wheel --no-build-isolation --no-cache-dir --no-deps --no-binary horovod \
  --wheel-dir "$work/wheel" "horovod==$version"
wheel=$(basename "$work"/wheel/*.whl)
mkdir -p "$wheels"
mv "$work/wheel/$wheel" "$wheels/new.$$"
mv "$wheels/new.$$" "$wheels/$wheel"
