#!/usr/bin/env bash
# setup.sh [--if-needed] [--cpu|--nccl] [--stock-pillow]: makes .venv what requirements.txt and this folder say.
#
# Each step ends by writing what it was done for into .venv/.setup, and is done again when that is missing or differs: an
# interrupted set-up goes on where it stopped, a changed pin is noticed. --if-needed (every start of run.sh) compares only the
# last of these files, and keeps the choices of the latest `./run.sh setup`.
set -euo pipefail
export LC_ALL=C.UTF-8
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$(dirname "$here")")
venv=$root/.venv
python=$venv/bin/python
finished=$venv/.setup
. "$here/steps.sh"
. "$here/system.sh"
. "$here/python.sh"
. "$here/horovod.sh"
. "$here/decoder.sh"

operations=auto pillow=simd if_needed=no
for option in "$@"; do
  case $option in
    --if-needed) if_needed=yes ;;
    --cpu) operations=cpu ;;
    --nccl) operations=nccl ;;
    --stock-pillow) pillow=stock ;;
    *)
      say "setup: unknown option $option; there are --cpu, --nccl and --stock-pillow"
      exit 2
      ;;
  esac
done

require_host_name
if [ "$if_needed" = yes ] && [ -f "$finished/choices" ]; then read -r operations pillow <"$finished/choices"; fi
everything="$root $operations $pillow $(cat "$root/requirements.txt" "$here"/* | sha256sum)"
complete() { [ "$if_needed" = yes ] && [ -x "$python" ] && is_done everything "$everything"; }
if complete; then exit 0; fi

trap 'exit 130' INT TERM
one_at_a_time
if complete; then exit 0; fi
rm -f "$finished/everything"
write "$finished/choices" "$operations $pillow"
install_system_tools
make_venv
forget_half_installed
install_requirements
install_horovod
install_decoder
write "$finished/everything" "$everything"
say "Set up in $SECONDS s: $(installed_versions)"
