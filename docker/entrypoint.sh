#!/usr/bin/env bash
# docker run IMAGE                 trains the default job: the same as docker run IMAGE train
# docker run IMAGE [...] train ... a command of run.sh, as outside
# docker run IMAGE node            waits for jobs that come by ssh
# docker run IMAGE bash            anything else
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/checks.sh"
. "$(dirname "${BASH_SOURCE[0]}")/ssh.sh"
run=/trainer/run.sh
[ -w "$HOME" ] || export HOME=/tmp # a user that the image does not know, by docker run --user

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
