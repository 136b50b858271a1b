#!/usr/bin/env bash
# bundle.sh FILE: packs all packages that this set-up installed, with the Horovod that it compiled, for `./run.sh setup --bundle FILE`
# on a machine without internet that has the same Python version and the same kind of processor. FILE also contains the source
# archives of Horovod and Pillow-SIMD, which are compiled on that machine if its torch, MPI or compiler differ.
set -euo pipefail
export LC_ALL=C.UTF-8
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/steps.sh"
. "$here/python.sh"
. "$here/horovod.sh"
[ $# = 1 ] && [ -d "$(dirname "$1")" ] || bad_option "bundle needs the name of the file to write, in a folder that exists: ./run.sh bundle FILE"

"$here/setup.sh" --if-needed
read_choices
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
download() { logged "downloading for the bundle" pip download --require-hashes --no-deps --no-build-isolation --dest "$work/packages" "$@"; }

say "Downloading the packages for $1"
download -r "$finished/requirements.txt"
for package in horovod pillow-simd; do
  requirement "$package" requirements-source.txt >"$work/requirement.txt"
  download --no-binary "$package" -r "$work/requirement.txt"
done
rm "$work/requirement.txt"
if [ "$operations" = nccl ]; then download -r "$root/requirements-cuda.txt"; fi
wheels=$(horovod_wheels "$(<"$finished/horovod")")
mkdir "$work/horovod-wheels"
cp -r "$wheels" "$work/horovod-wheels/"
tar -C "$work" -cf "$1.new" .
mv "$1.new" "$1"
say "$1: $(du -h "$1" | cut -f 1). On the other machine: ./run.sh setup${torch:+ --torch PYTHON} --bundle FILE"
