# Sourced by the other scripts: makes `.venv` in the repository, once, and chooses the llava that is imported.
#
#   LLAVA_NEXT=/path/to/LLaVA-NeXT   use that checkout in place of PyPI's llava-torch
#   TRANSFORMERS=4.45.2              another transformers (default 4.40.2)
#   TORCH_SPEC="torch==2.4.1"        another torch (default torch==2.13.0)
#   PYTHON=python3.10                the Python that makes the .venv (default python3)

TORCH_SPEC="${TORCH_SPEC:-torch==2.13.0}"
TRANSFORMERS="${TRANSFORMERS:-4.40.2}"
LLAVA_TORCH="llava-torch==1.2.2.post1"
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$ROOT/.venv"

stop() {
    echo "${0##*/}: $*" >&2
    exit 1
}

make_venv() {
    local python="${PYTHON:-python3}"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || stop "Python 3.10 or later is needed"
    echo "making $VENV"
    "$python" -m venv "$VENV" && return
    # Debian's Python comes without ensurepip: let its own pip put one in.
    "$python" -m venv --without-pip "$VENV"
    "$python" -m pip --python "$VENV/bin/python" install pip || stop "neither ensurepip nor pip works: install one"
}

# torch comes first and alone, so that nothing else decides which one. llava-torch without its dependencies: they ask
# for versions of its year. The project likewise: all it needs is there by then.
install() {
    local pip=("$VENV/bin/python" -m pip install --quiet --disable-pip-version-check)
    echo "installing into $VENV: $TORCH_SPEC, transformers $TRANSFORMERS and the rest (some minutes, once)"
    # A second time over: pip would name as errors all that llava-torch asks for and must not get.
    "$VENV/bin/python" -m pip uninstall --quiet --yes llava-torch >/dev/null 2>&1 || true
    "${pip[@]}" "$TORCH_SPEC"
    "${pip[@]}" "$TORCH_SPEC" "transformers==$TRANSFORMERS" -r "$ROOT/scripts/requirements-test.txt"
    "${pip[@]}" --no-deps "$LLAVA_TORCH"
    "${pip[@]}" --no-deps --editable "$ROOT"
}

wanted() {
    echo "$ROOT" "$TORCH_SPEC" "$TRANSFORMERS" "$LLAVA_TORCH"
    cat "$ROOT/setup.py" "$ROOT/scripts/requirements-test.txt"
}

if ! wanted | cmp -s - "$VENV/.installed"; then
    "$VENV/bin/python" -m pip --version >/dev/null 2>&1 || make_venv
    install
    wanted >"$VENV/.installed"
fi

if [ -n "${LLAVA_NEXT:-}" ]; then
    [ -f "$LLAVA_NEXT/llava/model/language_model/llava_qwen.py" ] ||
        stop "LLAVA_NEXT=$LLAVA_NEXT is no LLaVA-NeXT checkout (it has no llava/model/language_model/llava_qwen.py)"
    LLAVA_NEXT="$(cd "$LLAVA_NEXT" && pwd)"
    export PYTHONPATH="$LLAVA_NEXT${PYTHONPATH:+:$PYTHONPATH}"
fi
export HF_HUB_OFFLINE=1 WANDB_DISABLED=true TOKENIZERS_PARALLELISM=false
PATH="$VENV/bin:$PATH"

"$VENV/bin/python" - <<'PYTHON'
from llava_ego2exo.host.hooks.flavour import detect, package_folder

print(f"llava: {'LLaVA-NeXT' if detect() == 'next' else 'llava-torch'} at {package_folder()}", flush=True)
PYTHON
