"""The top-k logits that `teach --top-k` stored, one file an answer: `top_k/<first 2 of key>/<key>.npz`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..errors import Ego2ExoError

ARRAYS = ("tokens", "ids", "logits")


def file_of(folder: str | Path, key: str) -> Path:
    """Where the logits of an answer lie."""
    return Path(folder, "top_k", key[:2], f"{key}.npz")


def is_key(key: Any) -> bool:
    """Whether this is an answer's key, and no path in disguise."""
    return isinstance(key, str) and re.fullmatch(r"[0-9a-f]{32}", key) is not None


def read_logits(folder: str | Path, key: str) -> dict[str, Any]:
    """The arrays of an answer: `tokens` (T,), `ids` (T, k) and `logits` (T, k), numpy.

    Raises:
        Ego2ExoError: the file is missing or holds something else.
    """
    import numpy as np

    file = file_of(folder, key)
    remedy = "run the same `llava-ego2exo teach` again with --top-k"
    if not file.is_file():
        raise Ego2ExoError(f"no top-k logits at {file}", "answers made with `llava-ego2exo teach --top-k K`", remedy)
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in ARRAYS}
    except Exception as error:  # changed bytes make zip, zlib and numpy throw whatever they like, MemoryError too
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Ego2ExoError(f"{file} is damaged: {reason}", "", f"delete it, and {remedy}") from error
    tokens, ids, logits = (arrays[name] for name in ARRAYS)
    if tokens.ndim != 1 or ids.ndim != 2 or ids.shape != logits.shape or ids.shape[0] != tokens.shape[0]:
        shapes = ", ".join(f"{name} {value.shape}" for name, value in arrays.items())
        raise Ego2ExoError(f"top-k logits {file} have shapes {shapes}", "tokens (T,), ids (T, k), logits (T, k)")
    return arrays
