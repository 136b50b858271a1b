#!/usr/bin/env bash
# benchmarks/gpu.sh OUT [--rehearse]: measures on one GPU what docs/gpu.md lists, within 9 minutes.
#
# It needs no internet and no root, but an environment that is set up: .venv, or the Python named by the variable PYTHON. Each part has a
# time limit. If a part fails, the others still run. The files of each part and summary.txt are written into the folder OUT. --rehearse
# runs every part on a CPU with tiny sizes. This tests the script, and its numbers have no meaning.
set -uo pipefail
root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)
[ $# -ge 1 ] || { sed -n '2,7s/^# //p' "${BASH_SOURCE[0]}" >&2; exit 2; }
mkdir -p "$1" || exit 2
out=$(cd "$1" && pwd)
rehearse=no; [ "${2:-}" != --rehearse ] || rehearse=yes
python=${PYTHON:-$root/.venv/bin/python}
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
cd "$root" || exit 2

if [ "$rehearse" = yes ]; then
  device=cpu model=resnet18 side=32 sizes="4 8" steps=2 seconds=4 images=16 repeats=2 tests_limit=240
else
  device=cuda model=resnet50 side=224 sizes="64 128 256 512" steps=20 seconds=40 images=200 repeats=50 tests_limit=180
fi
synthetic=(--data synthetic --model "$model" --image-size "$side" --resize "$side" --device "$device" --precision bf16 --channels-last)

: >"$out/summary.txt"
say() { echo "$*" | tee -a "$out/summary.txt"; }
part() { # part NAME SECONDS COMMAND...: runs a command with a time limit and writes its output to NAME.txt
  local name=$1 limit=$2 begin=$SECONDS code
  shift 2
  timeout -k 5 "$limit" "$@" >"$out/$name.txt" 2>&1
  code=$?
  say "$name: exit code $code after $((SECONDS - begin)) s"
}

{ nvidia-smi 2>/dev/null || echo "no nvidia-smi"; "$python" -m app.hosts.libraries; nproc; } >"$out/machine.txt" 2>&1
if [ "$rehearse" = no ] && ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  say "torch sees no GPU: run benchmarks/gpu.sh OUT --rehearse to try the script on a CPU"
  exit 2
fi

# Correctness: one process, and two ranks on one GPU, compared with float64 on the CPU.
part tests "$tests_limit" "$python" -m pytest -q -p no:cacheprovider tests/gpu

# The speed of a step: compared with a bare loop, with eight workers in one pass, compiled, and for several n.
part peers 150 "$python" -m benchmarks.peers --device "$device" --rows gpu-bare gpu-ghosts --seconds "$seconds" --anyway --json "$out/peers.json"
for n in $sizes; do
  part "step-$n" 60 "$python" -m app benchmark "${synthetic[@]}" --per-worker "$n" --minibatch "$n" --loader-processes 0 \
    --synthetic-images $((n * 2 * (steps + 4))) --steps "$steps" --json "$out/step-$n.json"
done
n=${sizes##* }
part step-compiled 150 "$python" -m app benchmark "${synthetic[@]}" --per-worker "$n" --minibatch "$n" --compile --loader-processes 0 \
  --synthetic-images $((n * 2 * (steps + 4))) --steps "$steps" --json "$out/step-compiled.json"

# The speed of the loader: the same step on JPEG files and on images in memory.
"$python" -c "import sys; from pathlib import Path; from benchmarks import jpegs;  \
folder = Path(sys.argv[1]); folder.mkdir(); jpegs.write_folder(folder, images=int(sys.argv[2]), repeats=int(sys.argv[3]))" \
  "$out/jpegs" "$images" "$repeats" >"$out/jpegs.txt" 2>&1
n=${sizes%% *}
part real-jpegs 90 "$python" -m app benchmark --data "$out/jpegs" --model "$model" --image-size "$side" --device "$device" --precision bf16 \
  --channels-last --per-worker "$n" --minibatch "$n" --steps "$steps" --json "$out/real-jpegs.json"
rm -rf "$out/jpegs"

# A trace of a few steps.
part profile 90 "$python" -m benchmarks.profile_step "$out/trace.json" "${synthetic[@]}" --per-worker "$n" --minibatch "$n" --epochs 1 \
  --synthetic-images $((n * 8)) --loader-processes 0 --screen quiet --output "$out/profiled-run"
rm -rf "$out/profiled-run"

"$python" - "$out" <<'END' | tee -a "$out/summary.txt"
import json, sys
from pathlib import Path

from benchmarks.agreement import cell

out = Path(sys.argv[1])
for name, row in json.loads((out / "peers.json").read_text())["rows"].items() if (out / "peers.json").exists() else ():
    print(f"{name}: ratio {cell(row)}")
for file in [*sorted(out.glob("step-*.json")), out / "real-jpegs.json"]:
    if file.exists():
        found = json.loads(file.read_text())
        speeds = ", ".join(f"{found[kind]['images_per_second']:.0f} images/s {kind}" for kind in ("synthetic", "real") if kind in found)
        print(f"{file.stem}: {speeds}")
END
say "total: $SECONDS s"
