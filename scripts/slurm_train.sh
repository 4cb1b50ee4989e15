#!/usr/bin/env bash
#SBATCH --job-name=ego2exo-train
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@300
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
#
# The paper's recipe on several machines under SLURM: one torchrun a node, which find each other on the first node.
# Edit the lines above and the variables, then submit it from the repository, in the environment to train in:
#
#   sbatch scripts/slurm_train.sh
#   sbatch scripts/slurm_train.sh --max_steps 10     # further flags go to the training command
#
# A preempted job is queued again by SLURM, and one that nears its time limit queues itself again; both resume from the
# newest whole checkpoint in OUT, so at most SAVE_STEPS steps are lost. OUT and the data lie where all nodes see them.
# It was not run on a cluster or a GPU yet; the tests run it with stubs in place of srun and scontrol, and stop and
# resume a tiny model on a CPU.
set -euo pipefail

# sbatch runs a copy of this file that lies elsewhere.
cd "${SLURM_SUBMIT_DIR:?submit this with sbatch}"
[[ -f scripts/_recipe.sh ]] || { echo "slurm_train.sh: submit it from the repository" >&2; exit 1; }
source scripts/_recipe.sh
source scripts/_slurm.sh

MODEL=lmms-lab/llava-onevision-qwen2-7b-ov    # or lmms-lab/LLaVA-Video-7B-Qwen2; the teacher's, so that both share it
DATA=data/train.json                          # LLaVA's JSON: docs/data.md
VIDEOS=data/videos                            # what the JSON's paths are relative to
OUT=runs/llava-qwen-ego2exo                   # LLaVA reads models by letters in their path: keep "llava" and "qwen" in
FRAMES=32                                     # at most so many a video, one a second; the paper takes up to 180
MAX_LENGTH=16384                              # tokens of frames and text; LLaVA cuts off what does not fit
BITS=16                                       # 4 where the model does not fit on a GPU
SAVE_STEPS=50

# The paper's global batch is 128: nodes, times GPUs, times samples a step on each, times steps that are added up.
BATCH=1
ACCUMULATION=$(accumulation "$((SLURM_JOB_NUM_NODES * GPUS * BATCH))")

# Sequence distillation alone, as in the paper; scripts/train_qlora.sh says what the other line adds.
KL=()
# KL=(--ego2exo_kd_weight 0.5 --ego2exo_kd_temperature 1 --ego2exo_teacher self)

on_all_nodes \
    -m llava_ego2exo.train \
    "${RECIPE[@]}" \
    "${KL[@]}" \
    --model_name_or_path "$MODEL" \
    --version qwen_1_5 \
    --data_path "$DATA" \
    --video_folder "$VIDEOS" \
    --frames_upbound "$FRAMES" \
    --output_dir "$OUT" \
    --bits "$BITS" \
    --per_device_train_batch_size "$BATCH" \
    --gradient_accumulation_steps "$ACCUMULATION" \
    --model_max_length "$MAX_LENGTH" \
    --save_steps "$SAVE_STEPS" \
    "$@"
