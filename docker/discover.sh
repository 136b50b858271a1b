#!/usr/bin/env bash
# Prints the nodes that answer. For elastic runs: --host-discovery-script /trainer/docker/discover.sh
set -euo pipefail
while read -r name slots; do
  if timeout 1 bash -c "exec 3<>/dev/tcp/$name/$SSH_PORT" 2>/dev/null; then echo "$name:${slots#slots=}"; fi
done <"${CLUSTER:-/cluster}/hostfile"
