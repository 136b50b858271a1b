# Compile the library that closes the ports of Open MPI to strangers.
# shellcheck shell=bash disable=SC2154

install_open_mpi_token() {
  local site key
  site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  key="$(cat "$here/open_mpi_token.c" "$here/open_mpi.sh" | sha256sum) $(gcc -dumpfullversion)"
  is_done open_mpi_token "$key" && return
  logged "compiling the library that closes the ports of Open MPI" compile_open_mpi_token "$site/open_mpi_token.so"
  write "$finished/open_mpi_token" "$key"
}

# compile_open_mpi_token FILE: an incomplete file never has this name.
compile_open_mpi_token() { gcc -O2 -s -shared -fPIC -o "$1.new" "$here/open_mpi_token.c" -ldl && mv -f "$1.new" "$1"; }
