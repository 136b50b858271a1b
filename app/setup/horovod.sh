# Horovod, compiled for this machine's torch, MPI and Python, or taken from an earlier compilation for the very same ones.
# shellcheck shell=bash disable=SC2154

install_horovod() {
  local build toolkit='' key wheels
  build=$(choose_build)
  if [ "$build" = nccl ]; then toolkit=$(cuda_home); fi
  key="horovod $(pin horovod) $build $toolkit, torch $(pin torch), $(mpirun --version | head -n 1), g++ $(g++ -dumpfullversion)"
  key="$key, $("$python" -c 'import sysconfig; print(sysconfig.get_config_var("SOABI"))') $(cat "$here"/build_horovod.sh "$here"/*.cmake | sha256sum)"
  is_done horovod "$key" && return

  wheels=${XDG_CACHE_HOME:-~/.cache}/horovod-wheels/$(printf '%s' "$key" | sha256sum | cut -c 1-16)
  if ! compgen -G "$wheels/*.whl" >/dev/null; then
    say "Compiling Horovod $(pin horovod) for $build (gloo, MPI): 6 to 11 minutes of one core"
    logged "compiling Horovod" "$here/build_horovod.sh" "$python" "$(pin horovod)" "$wheels" "$toolkit"
  fi
  logged "installing Horovod" pip install --no-deps --no-index --force-reinstall "$wheels"/*.whl
  # A wheel that does not work here is not kept for the next start.
  if ! (logged "importing Horovod" imports "$build"); then
    rm -rf "$wheels"
    exit 1
  fi
  write "$finished/horovod" "$key"
}

# imports cpu|nccl
imports() {
  "$python" -c "import horovod.torch as hvd
assert hvd.gloo_built() and hvd.mpi_built() and bool(hvd.nccl_built()) == ('$1' == 'nccl')"
}

# Prints cpu or nccl.
choose_build() {
  if [ "$operations" = nccl ] && ! toolkit_fits; then
    fail "setup --nccl: no CUDA $(torch_cuda) toolkit, which torch $(pin torch) needs. Install one, or point CUDA_HOME at it."
  elif [ "$operations" = nccl ]; then
    echo nccl
  elif [ "$operations" = cpu ] || ! compgen -G '/dev/nvidia[0-9]*' >/dev/null; then
    echo cpu
  elif toolkit_fits; then
    echo nccl
  else
    say "There is a GPU, but no CUDA $(torch_cuda) toolkit: Horovod is built without NCCL. Once there is one: ./run.sh setup"
    echo cpu
  fi
}

# torch and Horovod share one CUDA runtime, so the toolkit must be of torch's major version.
toolkit_fits() {
  local folder
  folder=$(cuda_home) && "$folder/bin/nvcc" --version | grep -q "release $(torch_cuda)\."
}

# As text: importing torch takes seconds.
torch_cuda() { sed -n "s/^cuda.*'\([0-9]*\)\..*/\1/p" "$venv"/lib/python3*/site-packages/torch/version.py; }

# Prints the folder of a whole CUDA toolkit; an nvcc alone is not one.
cuda_home() {
  local nvcc folder
  nvcc=$(readlink -f "$(command -v nvcc || echo /no/bin/nvcc)")
  for folder in "${CUDA_HOME:-}" "${nvcc%/bin/nvcc}" /usr/local/cuda; do
    if [ -x "$folder/bin/nvcc" ] && [ -f "$folder/include/cuda_runtime.h" ]; then
      echo "$folder"
      return
    fi
  done
  return 1
}
