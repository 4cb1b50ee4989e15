#!/usr/bin/env bash
# The paper's recipe on one GPU: QLoRA on a 7B LLaVA video model. Edit the variables, then run it where LLaVA-NeXT and
# this package are installed:
#
#   bash scripts/train_qlora.sh
#   bash scripts/train_qlora.sh --max_steps 10 --output_dir runs/try     # further flags go to the training command
#
# The training file is what scripts/teach.sh writes. Run again, it resumes from the newest checkpoint in OUT.
# It uses the environment that it is called in, not the scripts' .venv. It was not run on a GPU yet; the tests run it
# with a stub in place of torchrun.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_recipe.sh"

MODEL=lmms-lab/llava-onevision-qwen2-7b-ov    # or lmms-lab/LLaVA-Video-7B-Qwen2; the teacher's, so that both share it
DATA=data/train.json                          # LLaVA's JSON: docs/data.md
VIDEOS=data/videos                            # what the JSON's paths are relative to
OUT=runs/llava-qwen-ego2exo                   # LLaVA reads models by letters in their path: keep "llava" and "qwen" in

# At most this many frames a video, one a second. The paper takes up to 180; each frame costs memory, and all frames
# with the text must fit into MAX_LENGTH, as LLaVA cuts off what does not.
FRAMES=32
MAX_LENGTH=16384

# The paper's global batch is 128: samples a step on the GPU, times steps that are added up.
BATCH=1
ACCUMULATION=$(accumulation "$BATCH")

# Sequence distillation alone, as in the paper. To also draw the student to the teacher's distribution over each answer
# token, take one of the other lines: `self` is the base with LoRA and ego tokens off, seeing the ego clip, so that no
# second model is in memory; `cached` reads what `teach --top-k` kept, so that no teacher runs at all.
KL=()
# KL=(--ego2exo_kd_weight 0.5 --ego2exo_kd_temperature 1 --ego2exo_teacher self)
# KL=(--ego2exo_kd_weight 0.5 --ego2exo_kd_temperature 1 --ego2exo_teacher cached --ego2exo_answers data/answers)

export CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES:-0}"

exec torchrun --standalone --nproc_per_node 1 -m llava_ego2exo.train \
    "${RECIPE[@]}" \
    "${KL[@]}" \
    --model_name_or_path "$MODEL" \
    --version qwen_1_5 \
    --data_path "$DATA" \
    --video_folder "$VIDEOS" \
    --frames_upbound "$FRAMES" \
    --output_dir "$OUT" \
    --bits 4 \
    --quant_type nf4 \
    --double_quant True \
    --per_device_train_batch_size "$BATCH" \
    --gradient_accumulation_steps "$ACCUMULATION" \
    --model_max_length "$MAX_LENGTH" \
    --save_steps 100 \
    "$@"
