"""Hashes of many video files, remembered in the folder of a run so that a run that goes on reads no file again."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from .json_text import parse_json, read_lines_of
from .progress import run_all

FILE = "video_hashes.jsonl"


def video_hashes(
    paths: Sequence[str], folder: str | Path, progress: bool = True, what: str = "hashing ego videos"
) -> dict[str, str]:
    """path -> sha256 of the file's bytes, for each different path.

    A hash is taken over from an earlier run where the file's size and time of change are as they were.

    Args:
        paths: existing files.
        folder: where to remember them.
        progress: show a bar.
        what: shown before the bar.
    """
    paths = list(dict.fromkeys(paths))
    known = _known(Path(folder, FILE))
    marks = {path: _mark(path) for path in paths}
    new = [path for path in paths if (path, *marks[path]) not in known]
    guard = threading.Lock()
    with Path(folder, FILE).open("a", encoding="utf-8") as file:

        def run(path: str) -> str:
            found = file_hash(path)
            with guard:
                file.write(json.dumps([path, *marks[path], found]) + "\n")
                file.flush()
            return found

        made = run_all(run, new, min(8, os.cpu_count() or 1), what, "file", progress)
    hashes = dict(zip(new, made, strict=True))
    return {path: hashes.get(path) or known[(path, *marks[path])] for path in paths}


def file_hash(path: str) -> str:
    """sha256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _mark(path: str) -> tuple[int, int]:
    stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns


def _known(file: Path) -> dict[tuple[str, int, int], str]:
    if not file.is_file():
        return {}
    known = {}
    line = b"\n"
    for line in read_lines_of(file, "remembered hashes of videos"):
        # A line that a killed run left torn only costs one more reading of that file.
        try:
            path, size, time, found = parse_json(line.decode())
            known[path, size, time] = str(found)
        except (ValueError, TypeError):
            continue
    if not line.endswith(b"\n"):
        with file.open("a", encoding="utf-8") as stream:
            stream.write("\n")
    return known
