# shellcheck shell=bash
# Sourced by the SLURM scripts, from the repository: how many GPUs a node has, torchrun on all nodes, and a job that queues
# itself again when its time is nearly over.

GPUS="${SLURM_GPUS_ON_NODE:?ask for GPUs, as in the line --gpus-per-node of this script}"

# SLURM sends USR1 before the time is over. bash runs the trap only while it waits, so srun goes to the background.
trap 'echo "time is nearly over: queueing again"; scontrol requeue "$SLURM_JOB_ID"' USR1

# on_all_nodes ARGUMENTS...: torchrun with these arguments, a process a GPU; ends when all have ended.
on_all_nodes() {
    local head port
    head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
    port=$((20000 + SLURM_JOB_ID % 20000))
    srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" torchrun \
        --nnodes "$SLURM_JOB_NUM_NODES" \
        --nproc_per_node "$GPUS" \
        --rdzv_id "$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}" \
        --rdzv_backend c10d \
        --rdzv_endpoint "$head:$port" \
        "$@" &
    wait "$!"
}
