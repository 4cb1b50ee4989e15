#!/usr/bin/env bash
#SBATCH --job-name=ego2exo-eval
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
# Base beside student on one benchmark, on several machines under SLURM, a copy of the model on each GPU. Edit the lines
# above and the variables, then submit it from the repository, in the environment to work in:
#
#   sbatch scripts/slurm_eval.sh
#   sbatch scripts/slurm_eval.sh --limit 64      # further flags go to `llava-ego2exo eval`
#
# A preempted job is queued again by SLURM, and one that nears its time limit queues itself again; what was asked is on
# disk, so that only the rest is asked. Descriptions are stored; `llava-ego2exo eval --rescore OUT` has them judged later.
# All paths lie where all nodes see them.
# It was not run on a cluster or a GPU yet; the tests run it with stubs in place of srun, scontrol and torchrun.
set -euo pipefail

# sbatch runs a copy of this file that lies elsewhere.
cd "${SLURM_SUBMIT_DIR:?submit this with sbatch}"
[[ -f scripts/_slurm.sh ]] || { echo "slurm_eval.sh: submit it from the repository" >&2; exit 1; }
source scripts/_slurm.sh

BENCHMARK=ego-in-exo                              # or one of the adlx-* sets: docs/benchmarks.md
DATA=vlm_eval_bench/egoperceptionmcq               # its videos lie beside the file; else add --videos
VIEW=both                                         # ego-in-exo on both cameras; exo for all other sets
OUT=runs/eval/ego-in-exo
BASE=lmms-lab/llava-onevision-qwen2-7b-ov
STUDENT=runs/llava-qwen-ego2exo                   # as scripts/slurm_train.sh writes it
FRAMES=32                                         # as in training

on_all_nodes \
    -m llava_ego2exo \
    eval --benchmark "$BENCHMARK" --data "$DATA" --view "$VIEW" \
    --model "base=$BASE" --model "student=$STUDENT" --model-base "student=$BASE" --template qwen_1_5 \
    --frames-upbound "$FRAMES" --out "$OUT" "$@"
