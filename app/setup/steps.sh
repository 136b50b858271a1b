# Functions that setup.sh, its steps and bundle.sh share.
# shellcheck shell=bash disable=SC2154,SC2034

root=$(dirname "$(dirname "$here")")
venv=$root/.venv
python=$venv/bin/python
finished=$venv/.setup

say() { printf '%s\n' "$*" >&2; }

fail() {
  say "$@"
  exit 1
}

bad_option() {
  say "setup: $*"
  exit 2
}

# The choices of the latest set-up.
read_choices() {
  if [ -f "$finished/choices" ]; then read -r operations pillow torch <"$finished/choices"; fi
}

# use_bundle FILE: makes pip take packages from FILE only. A Horovod in FILE that was compiled for such a machine is used.
use_bundle() {
  local folder
  folder=$(mktemp -d)
  # shellcheck disable=SC2064 # the folder of now
  trap "rm -rf '$folder'" EXIT
  tar -C "$folder" --no-same-owner -xf "$1" || fail "$1 is not a file that ./run.sh bundle made."
  export PIP_NO_INDEX=1 PIP_FIND_LINKS=$folder/packages
  mkdir -p "$cache/horovod-wheels"
  cp -rn "$folder"/horovod-wheels/* "$cache/horovod-wheels/"
}

# is_done STEP KEY: returns whether STEP was finished for this KEY.
is_done() { [ -f "$finished/$1" ] && [ "$(<"$finished/$1")" = "$2" ]; }

# write FILE TEXT: writes a file so that it is either complete or does not exist.
write() {
  mkdir -p "$(dirname "$1")"
  printf '%s\n' "$2" >"$1.new"
  mv -f "$1.new" "$1"
}

# logged WHAT COMMAND...: runs the command with its output in .venv.log. If it fails, prints WHAT and the lines with errors.
logged() {
  local what=$1 log=$root/.venv.log begin
  printf '\n== %s ==\n' "$what" >>"$log"
  begin=$(wc -l <"$log")
  "${@:2}" >>"$log" 2>&1 && return
  tail -n "+$begin" "$log" | grep -i -A 2 'error' | head -n 25 >&2 || true
  fail "Set-up failed: $what. All of it is in $log. The next start goes on from here."
}

# The kernel releases this lock when the last process of a set-up ends, so a set-up that was killed does not block the next one.
one_at_a_time() {
  exec 9>"$root/.venv.lock"
  flock --nonblock 9 && return
  say "Another set-up of $root is at work: waiting for it."
  flock 9
}
