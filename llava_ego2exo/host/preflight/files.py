"""Files that training rows name: whether they are there, or below another folder than the one given."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path


class FileIndex:
    """Whether files are there, asked of the disk as rarely as a slow one needs it: often by one list of a folder."""

    _ASKED = 8  # files of a folder, before it is listed

    def __init__(self) -> None:
        self._found: dict[str, str] = {}
        self._asked: Counter[str] = Counter()
        self._listed: dict[str, frozenset[str]] = {}

    def kind(self, path: str) -> str:
        """`file`, `folder`, or `nothing`."""
        if path in self._found:
            return self._found[path]
        folder, name = os.path.split(path)
        if self._asked[folder] == self._ASKED:
            self._listed[folder] = _files_in(folder)
        self._asked[folder] += 1
        known = name in self._listed.get(folder, ())
        self._found[path] = found = "file" if known else _kind_of(path)
        return found


def _files_in(folder: str) -> frozenset[str]:
    try:
        with os.scandir(folder or ".") as entries:
            return frozenset(entry.name for entry in entries if entry.is_file(follow_symlinks=False))
    except OSError:
        return frozenset()  # each file is asked for by its name


def _kind_of(path: str) -> str:
    if "\0" in path or not os.path.exists(path):
        return "nothing"
    return "folder" if os.path.isdir(path) else "file" if os.path.isfile(path) else "device or pipe"


def folder_above(folder: str, file: str) -> str | None:
    """The folder that holds `file`, where `folder` ends with the folders that the file's path begins with."""
    ends, begins = Path(os.path.abspath(folder)).parts, Path(file).parts[:-1]
    for count in range(1, len(begins) + 1):
        above = os.path.normpath(os.path.join(folder, *[".."] * count))
        if ends[-count:] == begins[:count] and os.path.isfile(os.path.join(above, file)):
            return above
    return None
