#!/usr/bin/env bash
# One study on a Slurm allocation: Ray on its nodes for as long as it runs.
#
# To change: the lines of #SBATCH (nodes, CPUs, GPUs, time, partition), how your site loads Python, and, by the
# environment or here, STUDY and STORAGE (a directory that every node mounts, or s3://, gs://, az://).
# Before: `ray get-auth-token --generate`, once, in a home that every node mounts.
#
#   STUDY=my_study.yaml STORAGE=/shared/my-study sbatch clusters/ray/slurm.sh
#
# Two minutes before the time is up every trial commits where it is, and the job queues itself again.
#SBATCH --job-name=scaleexp
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --exclusive
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
set -euo pipefail

study=${STUDY:?the study file}
storage=${STORAGE:?where the study lives, as every node sees it}
# source "$HOME/venv/bin/activate"

export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$HOME/.ray/auth_token" RAY_USAGE_STATS_ENABLED=0
[[ -s $RAY_AUTH_TOKEN_PATH ]] || { echo "no token in $RAY_AUTH_TOKEN_PATH: ray get-auth-token --generate" >&2; exit 2; }

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
address=$(srun --nodes=1 --ntasks=1 -w "$head" hostname -I | awk '{print $1}')
port=$((20000 + SLURM_JOB_ID % 20000)) # several jobs may share a node
gpus=${SLURM_GPUS_ON_NODE:-0}

srun --nodes=1 --ntasks=1 -w "$head" ray start --head --block --node-ip-address="$address" --port="$port" \
    --include-dashboard=false --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="$gpus" &
started=$!
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT

export RAY_ADDRESS="$address:$port"
until ray status >/dev/null 2>&1; do
    kill -0 "$started" || exit 1
    sleep 2
done
if ((${#nodes[@]} > 1)); then
    others=$(IFS=,; echo "${nodes[*]:1}")
    srun --nodes=$((${#nodes[@]} - 1)) --ntasks=$((${#nodes[@]} - 1)) --ntasks-per-node=1 -w "$others" \
        ray start --block --address="$RAY_ADDRESS" --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="$gpus" &
fi
alive='import ray; ray.init(log_to_driver=False); print(sum(n["Alive"] for n in ray.nodes()))'
until [[ $(python -c "$alive" 2>/dev/null) == "${#nodes[@]}" ]]; do
    sleep 2
done

scaleexp run "$study" --yes --storage "$storage" &
run=$!
asked=no
trap 'asked=yes; kill -TERM "$run" || true' TERM
code=0
wait "$run" || code=$?
if [[ $asked == yes && $code == 143 ]]; then # the signal ended `wait`, not the run
    code=0
    wait "$run" || code=$?
fi
if [[ $asked == yes && $code == 130 ]]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
