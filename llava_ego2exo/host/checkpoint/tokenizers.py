"""A checkpoint's tokenizer, or the reason why there is none."""

from __future__ import annotations

from typing import Any

from ...errors import Ego2ExoError


def read_tokenizer(path: str, **options: Any) -> Any:
    """A checkpoint's tokenizer.

    Args:
        path: folder or hub name.
        options: of transformers' AutoTokenizer.

    Raises:
        Ego2ExoError: it has none.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, **options)
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise Ego2ExoError(
            f"no readable tokenizer in {path} ({reason})",
            "a checkpoint with its tokenizer",
            "copy it there, or install what its tokenizer needs",
        ) from error
