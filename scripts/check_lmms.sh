#!/usr/bin/env bash
# Runs the real lmms-eval on rendered tasks: its dummy model, its own wrapper for LLaVA, and this package's model entry,
# each on clips that the check draws. It makes an environment of its own, some 7 GB, since lmms-eval needs torchvision and
# another set of versions than training. It runs on a CPU, and is no part of the test suite.
#
#   bash scripts/check_lmms.sh                            # dummy, and our entry with PyPI's llava-torch
#   LLAVA_NEXT=~/LLaVA-NeXT bash scripts/check_lmms.sh    # lmms-eval's llava_onevision as well, on that checkout
#   LMMS_VENV=/tmp/lmms bash scripts/check_lmms.sh        # where the environment goes (default .venv-lmms)
#   OUT=/tmp/check bash scripts/check_lmms.sh             # keep tasks, logs and results there
#
#   LMMS_EVAL, TORCH_SPEC, TRANSFORMERS, PYTHON choose other versions.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
LMMS_VENV="${LMMS_VENV:-$ROOT/.venv-lmms}"
LMMS_EVAL="${LMMS_EVAL:-lmms_eval==0.7.3}"
TORCH_SPEC="${TORCH_SPEC:-torch==2.14.1 torchvision==0.29.1}"
TRANSFORMERS="${TRANSFORMERS:-4.45.2}"

stop() {
    echo "${0##*/}: $*" >&2
    exit 1
}

# One call, so that pip settles all versions together. av comes with lmms-eval, decord does not. filelock 4 has no
# `_api`, which lmms-eval 0.7.3 looks into.
wanted() {
    printf '%s\n' "$TORCH_SPEC" "$LMMS_EVAL" "transformers==$TRANSFORMERS" accelerate==0.34.2 peft==0.10.0 \
        bitsandbytes==0.50.2 decord==0.6.0 einops==0.8.2 matplotlib==3.11.2 snowballstemmer==3.1.1 \
        'filelock<4'
}

if ! wanted | cmp -s - "$LMMS_VENV/.installed"; then
    [ -x "$LMMS_VENV/bin/python" ] || "${PYTHON:-python3}" -m venv "$LMMS_VENV"
    echo "installing into $LMMS_VENV (some minutes, once)"
    read -ra packages <<<"$(wanted | tr '\n' ' ')"
    "$LMMS_VENV/bin/python" -m pip install --quiet --disable-pip-version-check "${packages[@]}"
    wanted >"$LMMS_VENV/.installed"
fi
pip=("$LMMS_VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps)

if [ -n "${LLAVA_NEXT:-}" ]; then
    [ -f "$LLAVA_NEXT/llava/model/language_model/llava_qwen.py" ] || stop "LLAVA_NEXT=$LLAVA_NEXT is no LLaVA-NeXT checkout"
    export PYTHONPATH="$LLAVA_NEXT"
else
    "${pip[@]}" llava-torch==1.2.2.post1
    unset PYTHONPATH
fi
# As a user installs it, so that a file that the package forgets is missed here. setuptools never empties its build/lib.
rm -rf "$ROOT/build/lib"
"${pip[@]}" --force-reinstall "$ROOT"

export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONSAFEPATH=1
OUT="${OUT:-$(mktemp -d)}"
"$LMMS_VENV/bin/python" "$ROOT/scripts/check_lmms.py" "$OUT"
echo "kept: $OUT"
