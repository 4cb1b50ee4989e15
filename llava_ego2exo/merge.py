"""`llava-ego2exo merge`: an adapter and its base as one self-contained LLaVA directory."""

from __future__ import annotations

import os
from pathlib import Path

from .common.files import require_writable
from .errors import Ego2ExoError


def merge(adapter: str, base: str, out: str, dtype: str | None = None) -> Path:
    """Merge a LoRA or projector checkpoint into its base and write a directory that loads without a base.

    The sum is formed in float32 and rounded once; the directory appears whole or not at all.

    Args:
        adapter: folder that training wrote, or one of its `checkpoint-*`.
        base: the checkpoint that training started from.
        out: new folder.
        dtype: of the written weights; None keeps the one that was trained with.

    Returns:
        `out`.

    Raises:
        Ego2ExoError: `out` is not empty, or adapter and base do not fit.
    """
    from . import register
    from .host.loading.merge import write_merged

    target = Path(os.path.abspath(out))
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Ego2ExoError(f"--out {out} exists and is not empty", "a new or empty folder", "choose another")
    require_writable(target.parent, "--out", folder=True)
    register()
    write_merged(adapter, base, target, dtype)
    return target
