#!/usr/bin/env bash
# GPUs under SLURM, a task each; before the time limit the run is stopped and queued again, and continues where it was:
#   sbatch experiments/launch/slurm_gpu.sh      from the root of the checkout; what it would do: slurm_gpu.sh --dry_run
# WORKDIR must be a folder that all nodes share. Install once, on a login node: see docs/tpu_vm.md.
#SBATCH --job-name=lmjax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append

set -euo pipefail
# SLURM copies this file elsewhere before it runs it: the others are found from where the job was submitted
LAUNCH=$(dirname "$0")
[ -f "$LAUNCH/settings.sh" ] || LAUNCH=${SLURM_SUBMIT_DIR:-.}/experiments/launch
. "$LAUNCH/settings.sh"
parse "$@"

again() {
  run scancel --signal=TERM "${SLURM_JOB_ID:-JOB}.0"
  wait "$STEP" || true # it ends once it has saved
  run scontrol requeue "${SLURM_JOB_ID:-JOB}"
  exit 0
}

[ -z "$ACTION" ] || unknown_action
trap again USR1
# one process a GPU; each sees all of its node, of which JAX takes one by SLURM's number of the task
run srun --gpu-bind=none --kill-on-bad-exit=1 "${COMMAND[@]}" &
STEP=$!
wait "$STEP"
