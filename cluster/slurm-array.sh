#!/usr/bin/env bash
# A sweep as tasks of Slurm that share nothing but the storage: sbatch --array=1-16 cluster/slurm-array.sh SWEEP STORAGE
# Each task does the cells that no other does or has done, without Ray and without a head; tasks may start and end at any
# time. STORAGE is a folder that every node mounts, or s3://... . Submit it again to continue the sweep.
#SBATCH --job-name=raybench
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-task=1
#SBATCH --ntasks=1
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -euo pipefail

if [[ $# -lt 2 ]]; then
  echo "usage: sbatch --array=1-N $0 SWEEP STORAGE [options of raybench run]" >&2
  exit 2
fi
sweep=$1 storage=$2
shift 2

# RAYBENCH_VENV: the environment to activate on every node; without it, `raybench` must be on the PATH.
if [[ -n ${RAYBENCH_VENV:-} ]]; then
  # shellcheck disable=SC1091
  source "$RAYBENCH_VENV/bin/activate"
fi

srun raybench run "$sweep" --local --storage "$storage" "$@"
