"""LLaVA's own loader without its talk."""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any


def load_quietly(path: Path, base: Path | None = None) -> tuple[Any, Any, Any, Any]:
    """By LLaVA's own loader, without what it prints and warns of; errors come through."""
    from ..host.asking import load

    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = load(str(path), base and str(base), torch_dtype="float32")
    loaded[1].eval()
    return loaded
