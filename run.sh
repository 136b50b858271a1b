#!/usr/bin/env bash
# ./run.sh                         sets everything up at the first start, then trains, as ./run.sh train does
# ./run.sh setup [OPTIONS]         only sets up: [--cpu|--nccl] [--stock-pillow] [--torch PYTHON|.] [--bundle FILE]
# ./run.sh bundle FILE             writes the file that `setup --bundle FILE` needs on a machine without internet
# ./run.sh test [--cluster|--gpu] [...]          runs the tests. Other arguments, such as files, are passed to pytest
# ./run.sh [LAUNCHER OPTIONS] COMMAND [OPTIONS]  runs a command: see ./run.sh --help
set -euo pipefail
unset CDPATH # with it, cd prints the name of a folder, and may enter another one
root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
python=$root/.venv/bin/python
[ $# -gt 0 ] || set -- train

if [ "$1" = setup ]; then exec "$root/app/setup/setup.sh" "${@:2}"; fi
if [ "$1" = bundle ]; then exec "$root/app/setup/bundle.sh" "${@:2}"; fi
if [ "$1" != test ]; then
  (cd "$root" && app/setup/setup.sh --if-needed)
  export PYTHONSAFEPATH=1 # no modules from the folder where the command is started, in which others may be able to write
  exec "$python" -m app.start "$@"
fi

"$root/app/setup/setup.sh" --if-needed --tests
cd "$root"
case ${2:-} in
  --gpu) exec "$python" -m pytest tests/gpu "${@:3}" ;;
  --cluster) exec "$python" -m pytest tests "${@:3}" ;;
  # Three files run at the same time, because tests wait for launchers, timers and other processes half of the time.
  *) exec "$python" -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder "${@:2}" ;;
esac
