#!/usr/bin/env bash
# The whole method on a small paired world that it draws itself: a teacher that sees ego clips answers queries, students
# learn from its answers through LLaVA's own training on exo clips alone, and all are asked about held-out clips.
#
#   bash scripts/demo.sh                          # five students beside base and teacher
#   bash scripts/demo.sh --full --seeds 3         # every variant, with the spread over seeds
#   bash scripts/demo.sh --quick                  # a smaller run, shortest where an earlier one left its base
#   bash scripts/demo.sh --out DIR                # keep the report, metrics.json, students, answers, logs
#   LLAVA_NEXT=~/LLaVA-NeXT bash scripts/demo.sh  # on that checkout
set -euo pipefail
if [[ " $* " == *" -h "* || " $* " == *" --help "* ]]; then  # before anything is installed
    sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit
fi
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"

export PYTHONSAFEPATH=1  # no module of the folder this is called from
exec python -m llava_ego2exo.demo "$@"
