"""Which `llava` is importable: LLaVA-NeXT ("next") or PyPI's llava-torch ("pypi")."""

from __future__ import annotations

import importlib.util
import inspect
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...errors import Ego2ExoError

NEXT, PYPI = "next", "pypi"
NAMES = {NEXT: "LLaVA-NeXT", PYPI: "llava-torch"}


def package_folder() -> Path:
    """The folder of the `llava` package that `import llava` would take; imports nothing.

    Raises:
        Ego2ExoError: there is none, or it is something else of the same name.
    """
    spec = importlib.util.find_spec("llava")
    folder = Path(next(iter(spec.submodule_search_locations or ()), "")) if spec else None
    if folder is None or not (folder / "model" / "llava_arch.py").is_file():
        raise Ego2ExoError(
            "no `llava` package is importable" if spec is None else f"`llava` at {folder} is not LLaVA",
            "LLaVA-NeXT (1.7.0.dev0) or llava-torch 1.2.2",
            "put a LLaVA-NeXT checkout on PYTHONPATH, or run `pip install --no-deps llava-torch==1.2.2.post1`",
        )
    return folder


def detect() -> str:
    """The flavour's name, `NEXT` or `PYPI`."""
    return NEXT if (package_folder() / "model" / "language_model" / "llava_qwen.py").is_file() else PYPI


def original_projector_builder() -> Callable[..., Any]:
    """LLaVA's own `build_vision_projector`, without the plugin's wrapper."""
    from llava.model import llava_arch

    return inspect.unwrap(llava_arch.build_vision_projector)


def commit_of(folder: Path) -> str | None:
    """Commit of the checkout that a package folder lies in directly; None where it is installed otherwise."""
    if not (folder.parent / ".git").exists():  # not further up: site-packages may lie in another project's checkout
        return None
    command = ["git", "-C", str(folder.parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
