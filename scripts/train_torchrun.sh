#!/usr/bin/env bash
# The paper's recipe on all GPUs of one machine: LoRA in bfloat16 on a 7B LLaVA video model, a copy of the model on each
# GPU. Edit the variables, then run it where LLaVA-NeXT and this package are installed:
#
#   bash scripts/train_torchrun.sh
#   GPUS=4 bash scripts/train_torchrun.sh --max_steps 10     # further flags go to the training command
#
# The training file is what scripts/teach.sh writes. Run again, it resumes from the newest checkpoint in OUT.
# It was not run on a GPU yet; the tests run it on a CPU with two processes and a tiny model.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_recipe.sh"

MODEL=lmms-lab/llava-onevision-qwen2-7b-ov    # or lmms-lab/LLaVA-Video-7B-Qwen2; the teacher's, so that both share it
DATA=data/train.json                          # LLaVA's JSON: docs/data.md
VIDEOS=data/videos                            # what the JSON's paths are relative to
OUT=runs/llava-qwen-ego2exo                   # LLaVA reads models by letters in their path: keep "llava" and "qwen" in
FRAMES=32                                     # at most so many a video, one a second; the paper takes up to 180
MAX_LENGTH=16384                              # tokens of frames and text; LLaVA cuts off what does not fit
BITS=16                                       # 4 where the model does not fit on a GPU

# The paper's global batch is 128: GPUs, times samples a step on each, times steps that are added up.
GPUS="${GPUS:-$(nvidia-smi --list-gpus | wc -l)}"
BATCH=1
ACCUMULATION=$(accumulation "$((GPUS * BATCH))")

# Sequence distillation alone, as in the paper; scripts/train_qlora.sh says what the other line adds.
KL=()
# KL=(--ego2exo_kd_weight 0.5 --ego2exo_kd_temperature 1 --ego2exo_teacher self)

exec torchrun --standalone --nproc_per_node "$GPUS" -m llava_ego2exo.train \
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
    --save_steps 100 \
    "$@"
