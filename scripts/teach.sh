#!/usr/bin/env bash
# From a folder of paired videos to a training file: find the pairs, check every file, let the teacher answer about the
# ego clips, join its answers with the exo clips. Edit the variables, then run it where LLaVA-NeXT and this package are
# installed:
#
#   bash scripts/teach.sh
#   bash scripts/teach.sh --estimate          # further flags go to `llava-ego2exo teach`: how long would it take?
#   GPUS=4 bash scripts/teach.sh
#
# It stops at the first step that finds a fault. Run again, the teacher answers only what it has not answered yet.
# What it writes is what scripts/train_qlora.sh and the others read. It uses the environment that it is called in.
# It was not run on a GPU yet; the tests run it with stubs that check every flag.
set -euo pipefail

VIDEOS=data/videos                            # with <segment>_ego.mp4, <segment>_exo1.mp4, <segment>_exo2.mp4, ...
MODEL=lmms-lab/llava-onevision-qwen2-7b-ov    # the teacher: the model that the student starts from
FRAMES=32                                     # at most so many a video, one a second, as in training
PAIRS=data/pairs.jsonl
ANSWERS=data/answers
DATA=data/train.json

# A segment's name up to its last number is its take ("t1" of "t1_0003"); takes are held out whole, never in part.
TAKE='^(.+)_[0-9]+$'
SPLIT=train=0.9,val=0.1
SEED=0

GPUS="${GPUS:-1}"

llava-ego2exo pairs build --videos "$VIDEOS" --out "$PAIRS" --take-pattern "$TAKE" --split "$SPLIT" --seed "$SEED"
llava-ego2exo pairs check --pairs "$PAIRS"
torchrun --standalone --nproc_per_node "$GPUS" -m llava_ego2exo \
    teach --pairs "$PAIRS" --model "$MODEL" --template qwen_1_5 --frames-upbound "$FRAMES" --out "$ANSWERS" "$@"
for flag in "$@"; do
    [[ "$flag" == --estimate* ]] && exit 0    # only a few clips were answered
done
llava-ego2exo targets --pairs "$PAIRS" --answers "$ANSWERS" --out "$DATA" --video-folder "$VIDEOS" --seed "$SEED"
