#!/usr/bin/env bash
# ./run.sh                        sets everything up once, then trains: the same as ./run.sh train
# ./run.sh setup [OPTIONS]        only sets up: [--cpu|--nccl] [--stock-pillow] [--torch PYTHON|.] [--bundle FILE]
# ./run.sh bundle FILE            packs what setup --bundle FILE needs on a machine without internet
# ./run.sh test [--cluster|--gpu] [...]  runs the tests, or those that are named; what follows goes to pytest
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
case ${2:-} in
  --gpu) exec "$python" -m pytest tests/gpu "${@:3}" ;;
  --cluster) exec "$python" -m pytest tests "${@:3}" ;;
  # Two files at a time: a test waits for a launcher, a timer or another process half of its time.
  *) exec "$python" -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder "${@:2}" ;;
esac
