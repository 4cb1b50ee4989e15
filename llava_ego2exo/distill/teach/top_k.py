"""The k likeliest tokens at each place of an answer, on disk: what logit distillation needs without a teacher."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...common.files import write_atomic
from ...errors import Ego2ExoError
from ...host.training.stored_answers import file_of as top_k_path
from ...host.training.stored_answers import read_logits

__all__ = ["TopK", "load_top_k", "save_top_k", "top_k_path"]


@dataclass(frozen=True)
class TopK:
    """Teacher logits of one answer, as numpy arrays.

    Args:
        ids: (T, k) int32, token ids, likeliest first.
        logits: (T, k) float16, their logits before softmax, descending.
        tokens: (T,) int32, the answer's own tokens, its end token included where there is one.
    """

    ids: Any
    logits: Any
    tokens: Any


def save_top_k(folder: str | Path, key: str, top: TopK) -> Path:
    """Write one answer's logits; a half-written file never stands at the place.

    Raises:
        Ego2ExoError: the shapes do not fit each other.
    """
    import numpy as np

    _check(top, f"answer {key}")
    content = io.BytesIO()
    np.savez_compressed(
        content,
        ids=np.asarray(top.ids, np.int32),
        logits=np.asarray(top.logits, np.float16),
        tokens=np.asarray(top.tokens, np.int32),
    )
    return write_atomic(top_k_path(folder, key), content.getvalue())


def load_top_k(folder: str | Path, key: str) -> TopK:
    """Read one answer's logits, as the trainer does.

    Raises:
        Ego2ExoError: there are none, or the file is damaged.
    """
    return TopK(**read_logits(folder, key))


def _check(top: TopK, where: str) -> None:
    ids, logits, tokens = (tuple(value.shape) for value in (top.ids, top.logits, top.tokens))
    if len(ids) != 2 or ids != logits or tokens != ids[:1]:
        raise Ego2ExoError(f"{where}: top-k ids {ids}, logits {logits}, tokens {tokens}", "(T, k), (T, k) and (T,)")
