#!/usr/bin/env bash
# The paper's recipe on one GPU: QLoRA on a 7B LLaVA video model. Edit the variables, then run it where LLaVA-NeXT and
# this package are installed:
#
#   bash scripts/train_qlora.sh
#   bash scripts/train_qlora.sh --max_steps 10 --output_dir runs/try     # further flags go to the training command
#
# It uses the environment that it is called in, not the scripts' .venv. It was not run on a GPU yet.
set -euo pipefail

MODEL=lmms-lab/llava-onevision-qwen2-7b-ov    # or lmms-lab/LLaVA-Video-7B-Qwen2
DATA=data/train.json                          # LLaVA's JSON: docs/data.md
VIDEOS=data/videos                            # what the JSON's paths are relative to
OUT=runs/llava-qwen-ego2exo                   # LLaVA reads models by letters in their path: keep "llava" and "qwen" in

# At most this many frames a video, one a second. The paper takes up to 180; each frame costs memory, and all frames
# with the text must fit into MAX_LENGTH, as LLaVA cuts off what does not.
FRAMES=32
MAX_LENGTH=16384

# The paper's global batch is 128: samples a step on the GPU, times steps that are added up.
BATCH=1
ACCUMULATION=128

export CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES:-0}"

exec torchrun --standalone --nproc_per_node 1 -m llava_ego2exo.train \
    --ego2exo True \
    --ego2exo_num_tokens 16 \
    --model_name_or_path "$MODEL" \
    --version qwen_1_5 \
    --data_path "$DATA" \
    --video_folder "$VIDEOS" \
    --video_fps 1 \
    --frames_upbound "$FRAMES" \
    --lazy_preprocess True \
    --output_dir "$OUT" \
    --bits 4 \
    --quant_type nf4 \
    --double_quant True \
    --bf16 True \
    --lora_enable True \
    --lora_r 64 \
    --lora_alpha 16 \
    --lora_dropout 0.05 \
    --learning_rate 1e-5 \
    --mm_projector_lr 2e-6 \
    --num_train_epochs 3 \
    --per_device_train_batch_size "$BATCH" \
    --gradient_accumulation_steps "$ACCUMULATION" \
    --lr_scheduler_type cosine \
    --warmup_ratio 0.03 \
    --weight_decay 0.0 \
    --model_max_length "$MAX_LENGTH" \
    --gradient_checkpointing True \
    --dataloader_num_workers 4 \
    --save_strategy steps \
    --save_steps 100 \
    --save_total_limit 2 \
    --logging_steps 1 \
    --report_to none \
    "$@"
