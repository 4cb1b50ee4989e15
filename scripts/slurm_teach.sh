#!/usr/bin/env bash
#SBATCH --job-name=ego2exo-teach
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
#
# The teacher's answers on several machines under SLURM, a copy of the model on each GPU, then the training file.
# Make and check the pairs first (the first two commands of scripts/teach.sh). Edit the lines above and the variables,
# then submit it from the repository, in the environment to work in:
#
#   sbatch scripts/slurm_teach.sh
#   sbatch scripts/slurm_teach.sh --top-k 16     # further flags go to `llava-ego2exo teach`
#
# A preempted job is queued again by SLURM, and one that nears its time limit queues itself again; every answer is on
# disk as soon as it is given, so that only those being given are lost. All paths lie where all nodes see them.
# It was not run on a cluster or a GPU yet; the tests run it with stubs in place of srun, scontrol and torchrun.
set -euo pipefail

# sbatch runs a copy of this file that lies elsewhere.
cd "${SLURM_SUBMIT_DIR:?submit this with sbatch}"

MODEL=lmms-lab/llava-onevision-qwen2-7b-ov    # the teacher: the model that the student starts from
FRAMES=32                                     # at most so many a video, one a second, as in training
VIDEOS=data/videos
PAIRS=data/pairs.jsonl                        # in a folder above the videos; else add --allow-outside where it is read
ANSWERS=data/answers
DATA=data/train.json

GPUS="${SLURM_GPUS_ON_NODE:?ask for GPUs, as in the line --gpus-per-node above}"
HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
PORT=$((20000 + SLURM_JOB_ID % 20000))

# SLURM sends USR1 before the time is over. bash runs the trap only while it waits, so srun goes to the background.
trap 'echo "time is nearly over: queueing again"; scontrol requeue "$SLURM_JOB_ID"' USR1

srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" torchrun \
    --nnodes "$SLURM_JOB_NUM_NODES" \
    --nproc_per_node "$GPUS" \
    --rdzv_id "$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}" \
    --rdzv_backend c10d \
    --rdzv_endpoint "$HEAD:$PORT" \
    -m llava_ego2exo \
    teach --pairs "$PAIRS" --model "$MODEL" --template qwen_1_5 --frames-upbound "$FRAMES" --out "$ANSWERS" "$@" &
wait "$!"

llava-ego2exo targets --pairs "$PAIRS" --answers "$ANSWERS" --out "$DATA" --video-folder "$VIDEOS"
