# shellcheck shell=bash
# Sourced by the training scripts: the paper's recipe, flag by flag, for the default ego tokens; --ego2exo_preset paper
# trains the paper's. What a GPU decides (model, data, frames, batch) is in the scripts. Every flag given on a script's
# command line comes after these and wins.

GLOBAL_BATCH=128

# shellcheck disable=SC2034  # the scripts that source this use it
RECIPE=(
    --ego2exo True
    --ego2exo_num_tokens 16
    --video_fps 1
    --lora_enable True
    --lora_r 64
    --lora_alpha 16
    --lora_dropout 0.05
    --learning_rate 1e-5
    --mm_projector_lr 2e-6
    --ego2exo_lr 2e-6
    --num_train_epochs 3
    --lr_scheduler_type cosine
    --warmup_ratio 0.03
    --weight_decay 0.0
    --bf16 True
    --gradient_checkpointing True
    --lazy_preprocess True
    --dataloader_num_workers 4
    --save_strategy steps
    --save_total_limit 2
    --logging_steps 1
    --report_to none
)

stop() {
    echo "${0##*/}: $*" >&2
    exit 1
}

# accumulation SAMPLES: steps to add up, where a step takes that many samples on all GPUs together.
accumulation() {
    [[ "$1" =~ ^[1-9][0-9]*$ ]] || stop "'$1' samples a step: GPUs and BATCH must be whole numbers above 0"
    ((GLOBAL_BATCH % $1 == 0)) || stop "$1 samples a step do not divide the global batch of $GLOBAL_BATCH"
    echo $((GLOBAL_BATCH / $1))
}
