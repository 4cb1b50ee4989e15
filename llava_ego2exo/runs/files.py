"""Files that are never half-written, and folders in which one run at a time is at work."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from ..errors import Ego2ExoError


def write_whole(path: str | Path, content: str | bytes, sync: bool = True) -> Path:
    """Write a file beside its place, then rename it: at any moment the old or the new one stands there, whole.

    Args:
        path: of the file; its folders are made.
        content: text is written as UTF-8.
        sync: wait until the disk has it, so that it survives a power cut.

    Raises:
        Ego2ExoError: it cannot be written.
    """
    path = Path(os.path.abspath(path))
    part = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise Ego2ExoError(
            f"{path} cannot be written: {error.strerror or error}",
            "a file in a folder of yours",
            "give another place",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
    return path


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder and keep other runs out of it; the lock goes with the process that holds it.

    Raises:
        Ego2ExoError: it cannot be made, or another run is at work in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a")
    except OSError as error:
        raise Ego2ExoError(
            f"--out {folder} cannot be written: {error.strerror}", "a folder of yours", "give another --out"
        ) from error
    with file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            pass  # Windows: two runs at once are up to the user
        except OSError as error:
            raise Ego2ExoError(
                f"another run is at work in {folder}", "one at a time", "wait for it, or start several by torchrun"
            ) from error
        yield
