#!/usr/bin/env bash
# Trains on a Slurm cluster; stops with a checkpoint before the time is up, and goes on in a new run
# of the same job until training is done.
#
# usage: sbatch [SBATCH OPTION...] tools/launch/slurm.sh RECIPE --output FOLDER [PLAIT TRAIN OPTION...]
#
#   sbatch --nodes 4 --ntasks-per-node 2 --cpus-per-task 32 --time 12:00:00 \
#     tools/launch/slurm.sh recipes/library/llama_2_7b.textproto --output runs/llama
#
# Submit from the checkout, on a file system that all nodes see. PLAIT names another executable than
# build/release/tools/plait. The ranks' first word on trouble is in slurm-JOB.out.
# Exit code 75 (time nearly up, preempted, a peer lost) puts the job back in the queue; others end it.
#SBATCH --job-name=plait
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail

case ${1-} in
  -h | --help | '') sed -n '2,/^#SBATCH/{/^#SBATCH/!s/^# \{0,1\}//p}' "$0"; exit 0 ;;
esac
root=${SLURM_SUBMIT_DIR:-$PWD}
plait=${PLAIT:-$root/build/release/tools/plait}
if [ ! -x "$plait" ]; then
  echo "slurm.sh: $plait is not there; build it (tools/test.sh) or set PLAIT" >&2
  exit 2
fi
if [ -z "${OMP_WAIT_POLICY+set}" ]; then export OMP_WAIT_POLICY=passive GOMP_SPINCOUNT="${GOMP_SPINCOUNT-2000}"; fi

# --signal without B: reaches the ranks by itself; a preempted job's SIGTERM reaches this shell, too,
# which must outlive them to ask for the job's return.
trap : TERM USR1
# --resume begins at step 0 where there is no checkpoint yet.
srun --mpi=pmix --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
  "$plait" train "$@" --resume &
step=$!
while true; do
  wait "$step"
  code=$?
  kill -0 "$step" 2>/dev/null && continue
  # Where a signal came in just as it ended, the code is that of the signal: bash remembers the other.
  wait "$step" 2>/dev/null
  last=$?
  [ "$last" = 127 ] || code=$last
  break
done
if [ "$code" = 75 ]; then
  echo "slurm.sh: exit code 75, job $SLURM_JOB_ID goes back into the queue" >&2
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
