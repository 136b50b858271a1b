# Install Horovod, compiled for this machine's torch, MPI and Python. An earlier compilation for the same versions is reused.
# shellcheck shell=bash disable=SC2154

cache=${XDG_CACHE_HOME:-~/.cache}

install_horovod() {
  local build toolkit='' key wheels version
  version=$(pin horovod requirements-source.txt)
  build=$(choose_build)
  if [ "$build" = nccl ]; then toolkit=$(fitting_toolkit || toolkit_from_index); fi
  key=$(horovod_key "$build" "$toolkit")
  is_done horovod "$key" && return

  wheels=$(horovod_wheels "$key")
  if ! compgen -G "$wheels/*.whl" >/dev/null; then
    say "Compiling Horovod $version for $build (gloo, MPI): 6 to 11 minutes of one core"
    requirement horovod requirements-source.txt >"$finished/horovod.txt"
    logged "compiling Horovod" "$here/build_horovod.sh" "$python" "$finished/horovod.txt" "$wheels" "$toolkit"
  fi
  logged "installing Horovod" pip install --no-deps --no-index --force-reinstall "$wheels"/*.whl
  # A wheel that does not work here is not kept for the next start.
  if ! (logged "importing Horovod" imports "$build"); then
    rm -rf "$wheels"
    exit 1
  fi
  write "$finished/horovod" "$key"
}

# horovod_key cpu|nccl TOOLKIT: prints everything that a compiled Horovod depends on. This includes the release of the toolkit, but not
# its folder, and our own files without their comments.
horovod_key() {
  local release=''
  [ -z "$2" ] || release=$("$2/bin/nvcc" --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')
  printf 'horovod %s %s %s, torch %s, %s, g++ %s, %s %s' "$(pin horovod requirements-source.txt)" "$1" "$release" "$(torch_version)" \
    "$(mpirun --version | head -n 1)" "$(g++ -dumpfullversion)" \
    "$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("SOABI"))')" \
    "$({ grep -hv '^ *#' "$here"/build_horovod.sh "$here"/*.cmake && cat "$here/horovod.patch" <(requirement horovod requirements-source.txt); } |
      sha256sum)"
}

# horovod_wheels KEY: prints the folder of the wheel that is compiled for KEY.
horovod_wheels() { printf '%s/horovod-wheels/%s' "$cache" "$(printf '%s' "$1" | sha256sum | cut -c 1-16)"; }

# imports cpu|nccl
imports() {
  "$python" -c "import horovod.torch as hvd
assert hvd.gloo_built() and hvd.mpi_built() and bool(hvd.nccl_built()) == ('$1' == 'nccl')"
}

# Prints cpu or nccl. NCCL needs a CUDA toolkit of torch's major version, because torch and Horovod share one CUDA runtime. If there is
# no such toolkit, it is installed from the package index.
choose_build() {
  if [ "$operations" = cpu ] || { [ "$operations" = auto ] && ! compgen -G '/dev/nvidia[0-9]*' >/dev/null; }; then
    echo cpu
  elif [ -z "$(torch_cuda)" ] && [ "$operations" = nccl ]; then
    fail "setup --nccl: torch $(torch_version) was built without CUDA. Install a torch with CUDA, or use ./run.sh setup --cpu"
  elif fitting_toolkit >/dev/null || [ "$(torch_cuda)" = "$(index_cuda)" ]; then
    echo nccl
  elif [ "$operations" = nccl ]; then
    fail "setup --nccl: no CUDA $(torch_cuda) toolkit, which torch $(torch_version) needs. Install one, or point CUDA_HOME at it."
  else
    say "There is a GPU, but no CUDA $(torch_cuda) toolkit: Horovod is built without NCCL. Once there is one: ./run.sh setup"
    echo cpu
  fi
}

torch_folder() { "$python" -c 'import importlib.util; print(*importlib.util.find_spec("torch").submodule_search_locations)'; }

# The version is read as text, because importing torch takes seconds.
torch_version() { sed -n "s/^__version__ *= *'\(.*\)'/\1/p" "$(torch_folder)/version.py"; }

# torch_cuda: prints the major version of CUDA that torch was built with, or nothing for a torch without CUDA.
torch_cuda() { sed -n "s/^cuda.*'\([0-9]*\)\..*/\1/p" "$(torch_folder)/version.py"; }

# index_cuda: prints the major version of the toolkit in requirements-cuda.txt.
index_cuda() { pin cuda-toolkit requirements-cuda.txt | cut -d . -f 1; }

# Prints the folder of the first complete CUDA toolkit that fits torch. A folder with only nvcc is not complete.
fitting_toolkit() {
  local nvcc folder major
  major=$(torch_cuda)
  nvcc=$(readlink -f "$(command -v nvcc || echo /no/bin/nvcc)")
  for folder in "${CUDA_HOME:-}" "${nvcc%/bin/nvcc}" /usr/local/cuda /usr/local/cuda-"$major"*; do
    if [ -x "$folder/bin/nvcc" ] && [ -f "$folder/include/cuda_runtime.h" ] &&
      "$folder/bin/nvcc" --version | grep -q "release $major\."; then
      echo "$folder"
      return
    fi
  done
  return 1
}

# Installs the CUDA toolkit of requirements-cuda.txt into a separate folder, without root, and prints that folder. It is needed only
# for compiling.
toolkit_from_index() {
  local packages
  packages=$cache/cuda-toolkit-$(sha256sum <"$root/requirements-cuda.txt" | cut -c 1-16)
  if [ ! -d "$packages" ]; then
    say "Installing a CUDA $(index_cuda) toolkit for compiling into $packages: 105 MB to download"
    rm -rf "$packages.new"
    logged "installing the CUDA toolkit" pip_install --no-compile --no-deps --target "$packages.new" -r "$root/requirements-cuda.txt"
    # CMake and the linker look for these names.
    ln -s lib "$packages.new/nvidia/cu$(index_cuda)/lib64"
    ln -s "libcudart.so.$(index_cuda)" "$packages.new/nvidia/cu$(index_cuda)/lib/libcudart.so"
    mv "$packages.new" "$packages"
  fi
  echo "$packages/nvidia/cu$(index_cuda)"
}
