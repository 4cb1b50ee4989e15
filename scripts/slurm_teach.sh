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
[[ -f scripts/_slurm.sh ]] || { echo "slurm_teach.sh: submit it from the repository" >&2; exit 1; }
source scripts/_slurm.sh

MODEL=lmms-lab/llava-onevision-qwen2-7b-ov    # the teacher: the model that the student starts from
FRAMES=32                                     # at most so many a video, one a second, as in training
VIDEOS=data/videos
PAIRS=data/pairs.jsonl
ANSWERS=data/answers
DATA=data/train.json

on_all_nodes \
    -m llava_ego2exo \
    teach --pairs "$PAIRS" --model "$MODEL" --template qwen_1_5 --frames-upbound "$FRAMES" --out "$ANSWERS" "$@"

llava-ego2exo targets --pairs "$PAIRS" --answers "$ANSWERS" --out "$DATA" --video-folder "$VIDEOS"
