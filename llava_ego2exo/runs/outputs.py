"""Whether a file or folder can be written, asked before the work that fills it."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import Ego2ExoError


def require_writable(path: str | Path, flag: str) -> None:
    """Refuse a file that could not be written in the end; its folders may still be missing.

    Args:
        path: the file.
        flag: what the user calls it.

    Raises:
        Ego2ExoError: it is a folder, or lies below a file or in a folder that may not be written.
    """
    path = Path(os.path.abspath(path))
    above = next(folder for folder in path.parents if folder.exists())
    if path.is_dir() or not above.is_dir() or not os.access(above, os.W_OK):
        reason = "is a folder" if path.is_dir() else f"cannot be written: {above} is no folder of yours"
        raise Ego2ExoError(f"{flag} {path} {reason}", "a file in a folder that you may write", f"pass another {flag}")


def require_folder(path: str | Path, flag: str) -> None:
    """Refuse a folder that could not be filled in the end; it may still be missing.

    Args:
        path: the folder.
        flag: what the user calls it.

    Raises:
        Ego2ExoError: it is a file, or lies below one, or may not be written in.
    """
    path = Path(os.path.abspath(path))
    above = next(folder for folder in (path, *path.parents) if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        reason = (
            "is a file" if above == path and not above.is_dir() else f"cannot be written: {above} is no folder of yours"
        )
        raise Ego2ExoError(f"{flag} {path} {reason}", "a folder that you may write in", f"pass another {flag}")
