#!/usr/bin/env bash
# The whole test suite, in a .venv that it makes itself. Arguments go to pytest, paths relative to the repository:
#
#   bash scripts/test.sh                                    # on PyPI's llava-torch
#   LLAVA_NEXT=~/LLaVA-NeXT bash scripts/test.sh            # on that checkout
#   bash scripts/test.sh tests/method -q
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"

cd "$ROOT"
exec python -m pytest "$@"
