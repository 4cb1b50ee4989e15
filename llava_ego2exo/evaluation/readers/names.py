"""Videos by the names that data gives them, on whatever system they were written."""

from __future__ import annotations

import re

SUFFIXES = (".mp4", ".mkv", ".avi", ".mov", ".webm")
_TRAILING_EXO = re.compile(r"exo[0-9]+$")
EXO, EGO = "exo", "ego"


def parts_of(name: str) -> list[str]:
    """Folders and file of a name; whatever leads out of a folder or to the root of a disk is left away."""
    parts = [part for part in re.split(r"[/\\]", name) if part not in ("", ".")]
    if ".." in parts:
        parts = parts[len(parts) - parts[::-1].index("..") :]
    return parts[1:] if parts and re.fullmatch(r"[A-Za-z]:", parts[0]) else parts


def base_name(name: str) -> str:
    """The file's own name; "" where there is none."""
    return (parts_of(name) or [""])[-1]


def without_suffix(name: str) -> str:
    """The name without the suffix of a video file; other dots belong to the name."""
    suffix = suffix_of(name)
    return name[: -len(suffix)] if suffix else name


def suffix_of(name: str) -> str:
    """The suffix of a video file as it is written; "" where there is none."""
    return next((name[-len(suffix) :] for suffix in SUFFIXES if name.lower().endswith(suffix)), "")


def view_file(name: str, view: str) -> str | None:
    """The file of a keystep segment in a view, by the name of its exo video; None where that does not end in exoN."""
    stem = without_suffix(name)
    if view == EXO:
        return f"{stem}.mp4"
    return f"{_TRAILING_EXO.sub(EGO, stem)}.mp4" if _TRAILING_EXO.search(stem) else None
