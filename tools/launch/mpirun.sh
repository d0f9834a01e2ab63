#!/usr/bin/env bash
# Runs a command on several ranks of this host, or of the hosts that mpirun's own options name.
#
# usage: tools/launch/mpirun.sh [-n RANKS] [MPIRUN OPTION...] COMMAND [ARGUMENT...]
#
#   tools/launch/mpirun.sh -n 2 plait doctor
#   tools/launch/mpirun.sh -n 2 plait train recipes/library/demo_pretrain.textproto --output runs/first
#   tools/launch/mpirun.sh -n 16 --hostfile hosts --bind-to core plait train ... --resume
#
# `plait` is this checkout's release build where there is one. Without -n: one rank a core.
# Set beforehand, unless the environment or an option says otherwise: root may run, more ranks than
# cores may run, waiting ranks give their core away, ranks are not bound to a core (each divides its
# cores among the ranks that share them), idle threads sleep; on this host alone (no host option, no
# batch system) no network is looked for, which takes half of the start.
#
# To stop a run with a checkpoint at its next step (exit code 75), send SIGTERM, SIGINT, SIGHUP or SIGUSR1 to
# this script: the ranks get SIGUSR1. A second one ends them at once. To mpirun itself send SIGUSR1
# only: after SIGTERM it gives its ranks one second.
# The exit code is that of the rank that failed first; 0 where none did.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

case ${1-} in
  -h | --help) sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "$0"; exit 0 ;;
  '') echo "mpirun.sh: no command (see --help)" >&2; exit 2 ;;
esac
if ! command -v mpirun >/dev/null; then
  echo "mpirun.sh: there is no mpirun; install Open MPI (tools/install_dependencies.sh)" >&2
  exit 2
fi

if [ "$(id -u)" = 0 ]; then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
export OMPI_MCA_rmaps_base_oversubscribe="${OMPI_MCA_rmaps_base_oversubscribe-1}"
export OMPI_MCA_hwloc_base_binding_policy="${OMPI_MCA_hwloc_base_binding_policy-none}"
export OMPI_MCA_mpi_yield_when_idle="${OMPI_MCA_mpi_yield_when_idle-1}"
on_this_host() {
  local argument file
  [ -z "${SLURM_JOB_ID-}${PBS_JOBID-}${LSB_JOBID-}${PE_HOSTFILE-}${OAR_NODEFILE-}${COBALT_JOBID-}" ] || return 1
  [ -z "${OMPI_MCA_orte_default_hostfile-}${OMPI_MCA_rmaps_rank_file_path-}" ] || return 1
  for argument in "$@"; do
    case $argument in
      -H | -host | --host | *hostfile | *machinefile | *rank_file_path) return 1 ;;
      -rf | -rankfile | --rankfile | -app | --app | -am | --am | -tune | --tune) return 1 ;;
    esac
  done
  for file in {/etc/openmpi,"$(dirname "$(command -v mpirun)")/../etc"}/openmpi-default-hostfile; do
    ! grep -qs '^[[:space:]]*[^#[:space:]]' "$file" || return 1
  done
}
if on_this_host "$@"; then export OMPI_MCA_pml="${OMPI_MCA_pml-ob1}"; fi
# Copies by the kernel from one process to another are not allowed in many containers.
export OMPI_MCA_btl_vader_single_copy_mechanism="${OMPI_MCA_btl_vader_single_copy_mechanism-none}"
if [ -z "${OMP_WAIT_POLICY+set}" ]; then export OMP_WAIT_POLICY=passive GOMP_SPINCOUNT="${GOMP_SPINCOUNT-2000}"; fi
[ ! -x "$root/build/release/tools/plait" ] || PATH=$root/build/release/tools:$PATH
export PATH

# In a session of its own, so that a signal to this script's process group (a terminal's ^C, a batch
# system's SIGTERM) reaches the ranks by this script alone. It ends with this script, however that ends.
start=(setsid)
if command -v setpriv >/dev/null; then start+=(setpriv --pdeathsig TERM); fi
"${start[@]}" mpirun -x PATH -x OMP_WAIT_POLICY ${GOMP_SPINCOUNT+-x GOMP_SPINCOUNT} "$@" <&0 &
mpirun=$!

signals=0
stop() {
  signals=$((signals + 1))
  if [ "$signals" = 1 ]; then kill -USR1 "$mpirun"; else kill -TERM "$mpirun"; fi 2>/dev/null
}
trap stop TERM INT USR1 HUP

# `wait` ends early where a signal comes in.
while true; do
  wait "$mpirun"
  code=$?
  kill -0 "$mpirun" 2>/dev/null && continue
  # Where a signal came in just as it ended, the code is that of the signal: bash remembers the other.
  wait "$mpirun" 2>/dev/null
  last=$?
  [ "$last" = 127 ] || code=$last
  exit "$code"
done
