"""Files that cannot be written: whether the disk is the reason, and what is left."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import Ego2ExoError
from .whole_checkpoints import look

_NUMBERS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
# torch and safetensors write in other languages and tell the reason in words alone.
_WORDS = re.compile(
    r"No space left|os error (?:28|122|27|30|5)\b|Disk quota|PytorchStreamWriter|file write failed|iostream error|"
    r"inline_container.*unexpected pos"
)


def disk_reason(error: BaseException | None) -> str | None:
    """Why a file could not be written, in words; None where the error is of another kind."""
    for one in _chain(error):
        if isinstance(one, OSError) and one.errno in _NUMBERS:
            return os.strerror(one.errno)
        if isinstance(one, (OSError, RuntimeError)) or type(one).__name__ == "SafetensorError":
            if _WORDS.search(str(one)):
                return " ".join(str(one).split())[:160]
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def not_written(what: str, reason: str, folder: str | Path) -> Ego2ExoError:
    """The error that ends a run, with the last checkpoint that can be used.

    Args:
        what: could not be written.
        reason: in words.
        folder: the run's.
    """
    last = look(folder).last
    left = "there is no whole checkpoint before it" if last is None else f"{last.name} is whole and can be used"
    again = "it begins anew" if last is None else f"it goes on from {last.name}"
    return Ego2ExoError(
        f"{what} could not be written: {reason}; {left}",
        "space for one more checkpoint than --save_total_limit keeps",
        f"free some space, and start the same command again: {again}",
    )
