#!/usr/bin/env bash
# The main job at toy size: a tiny LLaVA video model is trained with --ego2exo True, loaded and asked.
#
#   bash scripts/demo.sh                                    # videos that it draws itself
#   bash scripts/demo.sh --videos DIR                       # yours
#   bash scripts/demo.sh --videos DIR --data train.json     # yours, with your questions and answers
#   bash scripts/demo.sh --out DIR                          # keep everything
#   LLAVA_NEXT=~/LLaVA-NeXT bash scripts/demo.sh            # on that checkout
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"

export PYTHONSAFEPATH=1  # no module of the folder this is called from
exec python -m llava_ego2exo.demo "$@"
