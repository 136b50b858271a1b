# Functions that check for mistakes that are common with containers, before a command is started. The app makes all other checks.
# shellcheck shell=bash

# refuse MESSAGE...: prints the message and ends with the exit code of bad input.
refuse() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

# option NAME DEFAULT WORD...: prints the last value that the words give to the option NAME, or DEFAULT if they do not give one.
option() {
  local name=$1 value=$2
  shift 2
  while [ $# -gt 0 ]; do
    case $1 in
      "$name") value=${2-} ;;
      "$name"=*) value=${1#*=} ;;
    esac
    shift
  done
  printf '%s' "$value"
}

is_command() { [ -f "/trainer/app/commands/${1//-/_}.py" ]; }

# command_of WORD...: prints the command among the arguments of run.sh, or `train` if there is none.
command_of() {
  local word
  for word; do
    if is_command "$word"; then
      printf '%s' "$word"
      return
    fi
  done
  printf train
}

check() {
  getent ahosts "$(uname -n)" >/dev/null ||
    refuse "the container's own name, $(uname -n), has no address, as with --network none: docker run --hostname localhost ..."
  case " $* " in *" --help "* | *" -h "* | *" --dry-run "*) return ;; esac
  check_data "$@"
  case $(command_of "$@") in train | evaluate | benchmark)
    check_gpu "$@"
    check_output "$@"
    ;;
  esac
}

check_gpu() {
  local device asked=''
  device=$(option --device auto "$@")
  if [ "$device" = cuda ]; then
    asked='--device cuda'
  elif [ "$(option --collectives auto "$@")" = nccl ]; then
    asked='--collectives nccl'
  elif [ "$COLLECTIVES$device" = ncclauto ]; then
    asked='this image, unless --device cpu is given,'
  fi
  [ -z "$asked" ] || compgen -G '/dev/nvidia[0-9]*' >/dev/null ||
    refuse "$asked needs a GPU and the container has none: docker run --gpus all ..."
}

check_data() {
  local data
  data=$(option --data digits "$@")
  [[ $data == */* ]] || return 0
  [ -d "$data" ] || refuse "--data $data is not in the container, mount it: docker run -v FOLDER-HERE:$data:ro ..."
  [[ -r $data && -x $data ]] || refuse "--data $data cannot be read by $(us): docker run --user \$(id -u):\$(id -g) ..."
  [ -n "$(ls -A "$data")" ] || refuse "--data $data is empty in the container, mount what is meant: -v FOLDER-HERE:$data:ro"
}

check_output() {
  local output folder
  output=$(option --output runs "$@")
  folder=$output
  until [ -e "$folder" ]; do folder=$(dirname "$folder"); done
  [ -w "$folder" ] ||
    refuse "$folder cannot be written by $(us): on the machine outside, chown $(id -u) what is mounted there, or mount it without :ro"
}

us() { printf 'user %s of the container' "$(id -u)"; }
