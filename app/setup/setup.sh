#!/usr/bin/env bash
# setup.sh [--cpu|--nccl] [--stock-pillow] [--torch PYTHON|.] [--bundle FILE] [--tests] [--if-needed]: installs into .venv what the
# requirements files and this folder describe.
#   --cpu, --nccl    compiles Horovod without or with NCCL; by default with NCCL if there is a GPU. --nccl needs no GPU.
#   --stock-pillow   installs Pillow with its latest security fixes instead of Pillow-SIMD
#   --torch PYTHON   uses the torch of that Python and installs only the missing packages; . is the first python3 on the PATH
#   --bundle FILE    takes all packages from FILE, which `./run.sh bundle FILE` has written, and needs no network
#   --tests          also installs the packages that the tests need
#   --if-needed      does nothing if everything is in place; keeps the choices of the latest `./run.sh setup`
#
# At its end, each step writes a file to .venv/.setup with everything that it depends on. If this file is missing or differs, the
# step is done again. So an interrupted set-up continues where it stopped, and a changed version is noticed. With --if-needed, which
# run.sh gives at each start, only the file of the last step is compared.
set -euo pipefail
export LC_ALL=C.UTF-8
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/steps.sh"
. "$here/system.sh"
. "$here/python.sh"
. "$here/horovod.sh"
. "$here/decoder.sh"
. "$here/open_mpi.sh"

operations=auto pillow=simd torch='' bundle='' tests=no if_needed=no
while [ $# -gt 0 ]; do
  case $1 in
    --if-needed) if_needed=yes ;;
    --cpu) operations=cpu ;;
    --nccl) operations=nccl ;;
    --stock-pillow) pillow=stock ;;
    --tests) tests=yes ;;
    --torch | --bundle)
      [ -n "${2:-}" ] || bad_option "$1 needs a value: --torch PYTHON or --torch . and --bundle FILE"
      if [ "$1" = --torch ]; then torch=$2; else bundle=$2; fi
      shift
      ;;
    *) bad_option "unknown option $1; there are --cpu, --nccl, --stock-pillow, --torch, --bundle and --tests" ;;
  esac
  shift
done
if [ -n "$torch" ]; then torch=$(python_path "$torch") || bad_option "--torch: there is no such Python"; fi
[ -z "$bundle" ] || [ -r "$bundle" ] || bad_option "--bundle $bundle: there is no such file"

require_host_name
if [ "$if_needed" = yes ]; then read_choices; fi
choices="$operations $pillow $torch"
everything="$root $choices $(cat "$root"/requirements{,-source,-cuda}.txt "$here"/* | sha256sum)"
test_tools=$(sha256sum <"$root/requirements-test.txt")
complete() {
  [ "$if_needed" = yes ] && [ -x "$python" ] && is_done everything "$everything" && { [ "$tests" = no ] || is_done tests "$test_tools"; }
}
if complete; then exit 0; fi

trap 'exit 130' INT TERM
one_at_a_time
if complete; then exit 0; fi
if [ -n "$bundle" ]; then use_bundle "$bundle"; fi
if [ "$if_needed" = no ] || ! is_done everything "$everything"; then
  if [ -n "$torch" ]; then check_torch; fi
  rm -f "$finished/everything"
  write "$finished/choices" "$choices"
  install_system_tools
  make_venv
  forget_half_installed
  install_requirements
  install_horovod
  install_decoder
  install_open_mpi_token
  write "$finished/everything" "$everything"
fi
if [ "$tests" = yes ] && ! is_done tests "$test_tools"; then install_test_tools; fi
say "Set up in $SECONDS s: $(installed_versions)"
