"""Files that are never half-written, folders of one run at a time, and hashes of videos."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import Ego2ExoError
from .json_io import read_raw_lines
from .jsonl import AppendFile
from .processes import map_threads

HASHES = "video_hashes.jsonl"


def write_atomic(path: str | Path, content: str | bytes, sync: bool = True) -> Path:
    """Write a file beside its place, then rename it: at any moment the old or the new file is there, complete.

    With `sync` it survives a power cut too.

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
        given = f"{path} cannot be written: {error.strerror or error}"
        raise Ego2ExoError(given, "a file in a writable folder", "pass another path") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
    return path


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder and refuse other runs; the lock ends with the process that holds it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a")
    except OSError as error:
        given = f"--out {folder} cannot be written: {error.strerror}"
        raise Ego2ExoError(given, "a writable folder", "pass another --out") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            remedy = "wait for it, or start several with torchrun"
            raise Ego2ExoError(f"another run is using {folder}", "one at a time", remedy) from error
        yield


def require_writable(path: str | Path, flag: str, folder: bool = False) -> None:
    """Refuse an output that could not be written in the end; its folders may still be missing.

    Raises:
        Ego2ExoError: it is of the other kind, lies below a file, or in a folder without write permission.
    """
    path = Path(os.path.abspath(path))
    above = next(place for place in (path, *path.parents) if place.exists() and (folder or place != path))
    if not folder and path.is_dir():
        reason = "is a folder"
    elif folder and above == path and not path.is_dir():
        reason = "is a file"
    elif not above.is_dir() or not os.access(above, os.W_OK):
        reason = f"cannot be written: {above} is not a writable folder"
    else:
        return
    allowed = "a writable folder" if folder else "a file in a writable folder"
    raise Ego2ExoError(f"{flag} {path} {reason}", allowed, f"pass another {flag}")


def file_hash(path: str) -> str:
    """sha256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def video_hashes(
    paths: Sequence[str], folder: str | Path, progress: bool = True, what: str = "hashing ego videos"
) -> dict[str, str]:
    """path -> sha256 of the file's bytes, for each different path.

    A hash of an earlier run is reused where the file's size and time of change are unchanged.
    """
    store, guard = Path(folder, HASHES), threading.Lock()
    keys = {path: (path, (stat := os.stat(path)).st_size, stat.st_mtime_ns) for path in paths}
    known = _stored_hashes(store)
    with AppendFile(store) as file:

        def run(path: str) -> None:
            key, digest = keys[path], file_hash(path)
            with guard:
                known[key] = digest
                file.append([[*key, digest]])

        new = [path for path, key in keys.items() if key not in known]
        map_threads(run, new, min(8, os.cpu_count() or 1), what, "file", progress)
    return {path: known[key] for path, key in keys.items()}


def _stored_hashes(store: Path) -> dict[tuple[str, int, int], str]:
    known = {}
    for line in read_raw_lines(store, "stored hashes of videos") if store.is_file() else ():
        # A line that a killed run left torn only costs reading that file again.
        with contextlib.suppress(ValueError, TypeError):
            path, size, time, digest = json.loads(line)
            known[path, size, time] = str(digest)
    return known
