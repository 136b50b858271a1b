#!/bin/sh
# open_mpi.sh ssh -x ...: mpirun starts this instead of ssh. It sends the variables of open_mpi.py to the other host.
# open_mpi.sh orted ...: on the other host, this starts Open MPI's daemon with them.
# They travel through standard input, because other users can read a command line.
if [ "$1" = ssh ]; then
  exec "$@" <<END
$OPEN_MPI_TOKEN
$OPEN_MPI_INTERFACE
$LD_PRELOAD
END
fi

# Slurm and other batch systems pass on the environment of mpirun by themselves, and leave standard input empty.
if read -r token; then
  OPEN_MPI_TOKEN=$token
  read -r OPEN_MPI_INTERFACE
  read -r LD_PRELOAD
fi
library=${LD_PRELOAD%%:*}
if [ ! -r "$library" ]; then
  echo "$(hostname): there is no $library, which closes the ports of Open MPI" >&2
  exit 1
fi
export OPEN_MPI_TOKEN OPEN_MPI_INTERFACE LD_PRELOAD
exec "$@" </dev/null
