# Functions for the ssh keys of a node. The image has no keys: they are made at the first start, or mounted with the folder $cluster.
# shellcheck shell=bash

# The folder that the nodes share. It has id_ed25519, which is the user's key on all nodes, and hostfile, which is made from the files
# in hosts/, one for each node.
cluster=${CLUSTER:-/cluster}

# make_keys: makes the user's key if there is none.
make_keys() {
  [ -w "$cluster" ] || return 0
  (
    flock 9
    [ -e "$cluster/id_ed25519" ] || ssh-keygen -q -t ed25519 -N '' -C trainer -f "$cluster/id_ed25519"
  ) 9>"$cluster/.lock"
}

# install_keys: copies the user's key into ~/.ssh, and makes the host key. ssh accepts a key only if other users cannot read the file,
# but a mounted file may have other permissions. So the key is copied.
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

# enter_hostfile: adds this node to $cluster/hostfile, with SLOTS slots. Without SLOTS it has one slot for each GPU, or 2 without a GPU.
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
