#!/usr/bin/env bash
# lock.sh: writes the requirements*.txt files again, with the hashes of all files of each version from the public package index. Run it
# after you have changed a requirements*.in file, or a version in requirements-source.txt. Versions that the *.in files do not give are
# kept, unless requirements.txt is removed first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install --quiet uv
compile() {
  "$work/venv/bin/uv" pip compile --quiet --no-config --native-tls --universal --python-version 3.11 --generate-hashes \
    --custom-compile-command app/setup/lock.sh "$@"
}

compile requirements.in -o requirements.txt
compile requirements-test.in -o requirements-test.txt
compile requirements-cuda.in -o requirements-cuda.txt
# Set-up installs each of these packages without its dependencies, which are in requirements.txt.
for package in horovod pillow-simd pillow; do
  sed -n "s/^\($package==[^ ]*\).*/\1/p" requirements-source.txt >"$work/$package.in"
  compile --no-deps --no-annotate --no-header "$work/$package.in" >>"$work/source"
done
sed '/^[^#]/,$d' requirements-source.txt >"$work/header"
cat "$work/header" "$work/source" >requirements-source.txt
