# The ssh keys of a node. The image has none: they are made at the first start, or mounted with the folder $cluster.
# shellcheck shell=bash

# The folder that the nodes share. It has id_ed25519 (the key of the user on all nodes), hostfile, and hosts/ with a line for each node,
# from which hostfile is made.
cluster=${CLUSTER:-/cluster}

# The first node that starts makes the key, if there is none.
make_keys() {
  [ -w "$cluster" ] || return 0
  (
    flock 9
    [ -e "$cluster/id_ed25519" ] || ssh-keygen -q -t ed25519 -N '' -C trainer -f "$cluster/id_ed25519"
  ) 9>"$cluster/.lock"
}

# ssh accepts a key only if nobody else can read the file. A mounted file has the permissions of its machine, so the key is copied.
install_keys() {
  mkdir -p ~/.ssh && chmod 700 ~/.ssh
  [ -r "$cluster/id_ed25519" ] || refuse "there is no $cluster/id_ed25519 that user $(id -u) can read: mount a folder with one, as -v KEYS:$cluster"
  install -m 600 "$cluster/id_ed25519" ~/.ssh/id_ed25519
  ssh-keygen -y -P '' -f ~/.ssh/id_ed25519 >~/.ssh/id_ed25519.pub
  cp ~/.ssh/id_ed25519.pub ~/.ssh/authorized_keys
  printf 'Port %s\nStrictHostKeyChecking accept-new\n' "$SSH_PORT" >~/.ssh/config
  [ -e ~/.ssh/ssh_host_ed25519_key ] || ssh-keygen -q -t ed25519 -N '' -C "$(hostname)" -f ~/.ssh/ssh_host_ed25519_key
  chmod 600 ~/.ssh/*
}

# Writes $cluster/hostfile: each node that was started, with SLOTS slots, or else one for each GPU, or else 2.
enter_hostfile() {
  local gpus
  [ -w "$cluster" ] || return 0
  gpus=$(compgen -G '/dev/nvidia[0-9]*' | wc -l) || true
  mkdir -p "$cluster/hosts"
  (
    flock 9
    if [ "$gpus" = 0 ]; then gpus=2; fi
    echo "$(hostname) slots=${SLOTS:-$gpus}" >"$cluster/hosts/$(hostname)"
    cat "$cluster"/hosts/* >"$cluster/hostfile.new"
    mv "$cluster/hostfile.new" "$cluster/hostfile"
  ) 9>"$cluster/.lock"
}
