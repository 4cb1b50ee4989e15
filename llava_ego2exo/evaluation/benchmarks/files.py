"""Names of files: a benchmark's file in a folder, and videos as data written on any system names them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...common.text import shorten_list
from ...errors import Ego2ExoError
from ...video.limits import VIDEO_SUFFIXES

EXO, EGO = "exo", "ego"
_TRAILING_EXO = re.compile(r"exo[0-9]+$")


def find_data_file(data: str | Path, benchmark: str, published: Mapping[str, Sequence[str]]) -> Path:
    """The file to read.

    Args:
        data: a file, or a folder; in a folder, it and the folders directly in it are searched.
        benchmark: its name.
        published: benchmark -> names of its published files. Case and signs do not count, nor "LEGACY-".

    Raises:
        Ego2ExoError: a folder holds no file that fits, or several; or a file has another benchmark's name.
    """
    path = Path(data)
    names = {other: {_plain(file) for file in files} for other, files in published.items()}
    if path.is_dir():
        return _in_folder(path, names[benchmark], published[benchmark])
    others = [other for other, files in names.items() if _plain(path.name) in files and other != benchmark]
    if others:
        raise Ego2ExoError(
            f"--data {path} has the name of the file of {others[0]}, not of {benchmark}",
            f"a file for --benchmark {benchmark}",
            "correct --benchmark or --data, or rename the file if its name is wrong",
        )
    return path


def _in_folder(folder: Path, names: set[str], files: Sequence[str]) -> Path:
    try:
        folders = [folder, *sorted(entry for entry in folder.iterdir() if entry.is_dir() and os.access(entry, os.R_OK))]
        found = [file for place in folders for file in sorted(place.iterdir()) if file.suffix.lower() == ".json"]
    except OSError as error:
        given = f"--data {folder} cannot be read: {error.strerror}"
        raise Ego2ExoError(given, "a readable folder", "fix its permissions") from error
    fitting = [file for file in found if _plain(file.name) in names]
    if len(fitting) == 1:
        return fitting[0]
    shown = shorten_list([str(file.relative_to(folder)) for file in fitting or found], 20) or "no JSON file"
    holds = f"holds {len(fitting)} files that fit: {shown}" if fitting else f"holds no file that fits, but {shown}"
    wanted = f"one of {', '.join(files)}, or the same with LEGACY- before it"
    raise Ego2ExoError(f"--data {folder} {holds}", wanted, "pass the file itself")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", Path(name).stem.lower()).removeprefix("legacy")


def parts_of(name: str) -> list[str]:
    """Folders and file of a name; whatever leads out of a folder or to the root of a disk is left away."""
    parts = [part for part in re.split(r"[/\\]", name) if part not in ("", ".")]
    if ".." in parts:
        parts = parts[len(parts) - parts[::-1].index("..") :]
    return parts[1:] if parts and re.fullmatch(r"[A-Za-z]:", parts[0]) else parts


def base_name(name: str) -> str:
    """The file's own name; "" where there is none."""
    return (parts_of(name) or [""])[-1]


def suffix_of(name: str) -> str:
    """The suffix of a video file as it is written; "" where there is none."""
    suffix = os.path.splitext(name)[1]
    return suffix if suffix.lower() in VIDEO_SUFFIXES else ""


def without_suffix(name: str) -> str:
    """The name without the suffix of a video file; other dots belong to the name."""
    return name.removesuffix(suffix_of(name))


def view_file(name: str, view: str) -> str | None:
    """The file of a keystep segment in a view, by the name of its exo video; None where that does not end in exoN."""
    stem = without_suffix(name)
    if view == EXO:
        return f"{stem}.mp4"
    return f"{_TRAILING_EXO.sub(EGO, stem)}.mp4" if _TRAILING_EXO.search(stem) else None
