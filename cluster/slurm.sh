#!/usr/bin/env bash
# A sweep on a Slurm cluster: sbatch --nodes=4 cluster/slurm.sh SWEEP STORAGE [options of `raybench run`]
# STORAGE is a folder that every node mounts, or s3://... . Submit it again to continue the sweep.
#SBATCH --job-name=raybench
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
set -euo pipefail

if [[ $# -lt 2 ]]; then
  echo "usage: sbatch --nodes=N $0 SWEEP STORAGE [options of raybench run]" >&2
  exit 2
fi
sweep=$1 storage=$2
shift 2

# RAYBENCH_VENV: the environment to activate on every node; without it, `ray` and `raybench` must be on the PATH.
if [[ -n ${RAYBENCH_VENV:-} ]]; then
  # shellcheck disable=SC1091
  source "$RAYBENCH_VENV/bin/activate"
fi

# A token for this job only, so that other users of these nodes can't use its Ray.
RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=${RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT:-300}

head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p) # not `head`, which may break the pipe
port=6379 # `ray symmetric-run` needs nodes without another Ray: --exclusive

# Runs on every node: the first becomes the head and runs the sweep, the others join it; all end with the sweep.
srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-8}" ray symmetric-run \
  --address "$head_node:$port" \
  --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus "${SLURM_CPUS_PER_TASK:-8}" \
  --include-dashboard=false \
  -- raybench run "$sweep" --address auto --storage "$storage" "$@"
