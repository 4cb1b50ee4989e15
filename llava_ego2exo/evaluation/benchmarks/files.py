"""Names of videos, as data written on any system holds them."""

from __future__ import annotations

import os
import re

from ...video.limits import VIDEO_SUFFIXES

EXO, EGO = "exo", "ego"
_TRAILING_EXO = re.compile(r"exo[0-9]+$")


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
