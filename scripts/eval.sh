#!/usr/bin/env bash
# Everything, base beside student: Ego-in-Exo Perception on both cameras, and the six sets of ADL-X. Edit the variables,
# then run it where LLaVA-NeXT and this package are installed:
#
#   bash scripts/eval.sh
#   bash scripts/eval.sh --check              # data and videos alone, without a model
#   GPUS=4 bash scripts/eval.sh
#   JUDGE_URL=http://localhost:11434/v1 JUDGE_MODEL=llama3.1 bash scripts/eval.sh
#
# A set whose data is not there is left out, and named at the end. Run again, only what is missing is asked.
# Without a judge the descriptions are stored; `llava-ego2exo eval --rescore DIR` has them judged later.
# It was not run on a GPU yet; the tests run it with stubs that check every flag.
set -euo pipefail

DATA=vlm_eval_bench                               # the published folders, as docs/benchmarks.md shows them
OUT=runs/eval
BASE=lmms-lab/llava-onevision-qwen2-7b-ov
STUDENT=runs/llava-qwen-ego2exo                   # as scripts/train_qlora.sh writes it
FRAMES=32                                         # as in training

declare -A FILES=(
    [ego-in-exo]=egoperceptionmcq/egoinexoperception.json
    [adlx-charades-ar]=adlx/Charades-AR.json [adlx-charades-desc]=adlx/Charades-Description.json
    [adlx-smarthome-ar]=adlx/Smarthome-AR.json
    [adlx-lemma-tc]=adlx/LEMMA-TC.json
    [adlx-tsu-tc]=adlx/TSU-TC.json [adlx-tsu-desc]=adlx/TSU-Description.json
)
SETS=(ego-in-exo adlx-charades-ar adlx-smarthome-ar adlx-lemma-tc adlx-tsu-tc adlx-charades-desc adlx-tsu-desc)

GPUS="${GPUS:-1}"
MODELS=(--model "base=$BASE" --model "student=$STUDENT" --model-base "student=$BASE" --template qwen_1_5)

left_out=() faulty=()
for set in "${SETS[@]}"; do
    file="$DATA/${FILES[$set]}"
    if [ ! -f "$file" ]; then
        left_out+=("$set ($file)")
        continue
    fi
    what=(eval --benchmark "$set" --data "$file")
    [ "$set" = ego-in-exo ] && what+=(--view both)
    if [ "${1:-}" = --check ]; then
        llava-ego2exo "${what[@]}" "$@" || faulty+=("$set")
        continue
    fi
    [[ "$set" == *-desc && -n "${JUDGE_URL:-}" ]] && what+=(--judge-url "$JUDGE_URL" --judge-model "$JUDGE_MODEL")
    # One set that fails does not keep the others from being asked.
    torchrun --standalone --nproc_per_node "$GPUS" -m llava_ego2exo \
        "${what[@]}" "${MODELS[@]}" --frames-upbound "$FRAMES" --out "$OUT/$set" "$@" || faulty+=("$set")
done

for set in "${left_out[@]}"; do echo "left out, no data: $set" >&2; done
for set in "${faulty[@]}"; do echo "ended with an error: $set" >&2; done
[ "${#faulty[@]}" = 0 ]
