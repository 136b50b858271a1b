#!/usr/bin/env bash
# docker run IMAGE                  trains the default job, as docker run IMAGE train does
# docker run IMAGE [...] train ...  runs a command of run.sh
# docker run IMAGE node             starts an sshd and waits for jobs
# docker run IMAGE bash             runs any other program
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/checks.sh"
. "$(dirname "${BASH_SOURCE[0]}")/ssh.sh"
run=/trainer/run.sh
[ -w "$HOME" ] || export HOME=/tmp # a user of `docker run --user` may have no home

[ $# -gt 0 ] || set -- train
case $1 in
  node)
    make_keys
    install_keys
    enter_hostfile
    echo "$(hostname) waits for jobs on port $SSH_PORT; the key that it lets in: $(ssh-keygen -lf ~/.ssh/id_ed25519.pub)"
    exec /usr/sbin/sshd -D -e -f /trainer/docker/sshd_config -p "$SSH_PORT" -h ~/.ssh/ssh_host_ed25519_key
    ;;
  test) exec "$run" "$@" ;;
esac

if [ -e "$cluster/id_ed25519" ]; then install_keys; fi
if [[ $1 != -* ]] && ! is_command "$1" && command -v "$1" >/dev/null; then exec "$@"; fi
check "$@"
exec "$run" "$@"
