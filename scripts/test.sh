#!/usr/bin/env bash
# The whole test suite, in a .venv that it makes itself. Arguments go to pytest, paths relative to the repository:
#
#   bash scripts/test.sh                                    # on PyPI's llava-torch
#   LLAVA_NEXT=~/LLaVA-NeXT bash scripts/test.sh            # on that checkout
#   bash scripts/test.sh tests/method -q
#
# Without arguments the suite is shared out among the cores.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"

cd "$ROOT"
[ "$#" -gt 0 ] || set -- -n auto --dist worksteal
exec python -m pytest "$@"
