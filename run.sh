#!/usr/bin/env bash
# ./run.sh                        sets everything up once, then trains: the same as ./run.sh train
# ./run.sh setup [OPTIONS]        only sets up: [--cpu|--nccl] [--stock-pillow] [--torch PYTHON|.] [--bundle FILE]
# ./run.sh bundle FILE            packs what setup --bundle FILE needs on a machine without internet
# ./run.sh test [--cluster|--gpu] [...]  runs the tests; what follows goes to pytest
# ./run.sh [LAUNCHER OPTIONS] COMMAND [OPTIONS]     see ./run.sh --help
set -euo pipefail
root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
python=$root/.venv/bin/python
[ $# -gt 0 ] || set -- train

if [ "$1" = setup ]; then exec "$root/app/setup/setup.sh" "${@:2}"; fi
if [ "$1" = bundle ]; then exec "$root/app/setup/bundle.sh" "${@:2}"; fi
if [ "$1" != test ]; then
  "$root/app/setup/setup.sh" --if-needed
  exec "$python" -m app.start "$@"
fi

"$root/app/setup/setup.sh" --if-needed --tests
cd "$root"
if [ "${2:-}" = --gpu ]; then exec "$python" -m pytest tests/gpu "${@:3}"; fi
if [ "${2:-}" = --cluster ]; then exec "$python" -m pytest tests "${@:3}"; fi
exec "$python" -m pytest tests --ignore tests/cluster "${@:2}"
