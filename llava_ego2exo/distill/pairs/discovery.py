"""Pairs in a folder, found by the names of its files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ...common.text import repeated, shorten_list
from ...errors import Ego2ExoError
from ...video.limits import VIDEO_SUFFIXES
from .pair import EGO, Pair, record_faults

KEYSTEP = re.compile(r"(?:.*/)?(?P<segment>[^/]+)_(?P<view>ego|exo\d+)")
_PATTERN_HELP = (
    "a regular expression with the groups (?P<segment>...) and (?P<view>...), or a template such as "
    "{take}/{segment}_{view}; `take` is optional"
)


@dataclass
class FoundPairs:
    """The videos of a folder: pairs, segment -> its views where a side is missing, and videos of other names."""

    pairs: list[Pair] = field(default_factory=list)
    unpaired: dict[str, dict[str, str]] = field(default_factory=dict)
    other: list[str] = field(default_factory=list)

    def unpaired_lines(self) -> list[str]:
        """A line for each unpaired segment, with the side it lacks."""
        return [
            f"{segment}: no {'exo' if EGO in views else 'ego'} view beside {', '.join(views.values())}"
            for segment, views in self.unpaired.items()
        ]


def find_pairs(folder: str | Path, pattern: str | None = None, ego_view: str = EGO) -> FoundPairs:
    """Pair the videos of a folder and its subfolders by their paths; names that start with a dot are skipped.

    Without a pattern: `<segment>_ego.mp4`, `<segment>_exo<N>.mp4`, with any video suffix. Where a segment's name is in
    several takes, all segments are called `<take>_<segment>`.

    Raises:
        Ego2ExoError: no folder, no match, a faulty name, or two files for one view of a segment.
    """
    expression = compile_pattern(pattern) if pattern else KEYSTEP
    folder, found, clashes = os.path.abspath(folder), FoundPairs(), []
    segments: dict[tuple[str, str], dict[str, str]] = {}
    for path in sorted(_videos(folder), key=_natural):
        groups = _match(expression, path.relative_to(folder).as_posix())
        if groups is None:
            found.other.append(str(path))
            continue
        segment, view = groups["segment"], EGO if groups["view"] == ego_view else groups["view"]
        views = segments.setdefault((groups.get("take") or segment, segment), {})
        if view in views or (view == EGO and groups["view"] != ego_view):
            clashes.append(f"{segment} {view}: {views.get(view, 'the ego view has another name')} and {path}")
        views.setdefault(view, str(path))
    long = bool(repeated(segment for _, segment in segments))
    names = {key: "_".join(key) if long else key[1] for key in segments}
    clashes += [f"segment {name} of several takes" for name in repeated(names.values())]
    if clashes:
        raise Ego2ExoError(
            f"{len(clashes)} view(s) of a segment found twice: {shorten_list(clashes)}",
            "one file for each view of a segment",
            "remove one of the files, or pass a --pattern whose `take` or `segment` distinguishes them",
        )
    if not segments:
        wanted = f"--pattern {pattern!r}" if pattern else "<segment>_ego.mp4 and <segment>_exo<N>.mp4"
        examples = shorten_list(found.other, 3)
        named = f"none of {len(found.other)} video(s) in {folder} is named like {wanted}: {examples}"
        given = named if found.other else f"{folder} holds no video ({' '.join(sorted(VIDEO_SUFFIXES))})"
        raise Ego2ExoError(given, _PATTERN_HELP, "check the path, or pass --pattern or --manifest")
    faults = []
    for key, views in segments.items():
        exo = {view: path for view, path in views.items() if view != EGO}
        if EGO not in views or not exo:
            found.unpaired[names[key]] = views
            continue
        values = {"segment": names[key], "ego": views[EGO], "exo": exo, "take": key[0]}
        wrong = record_faults(values)
        faults += [f"{views[EGO]}: {fault}" for fault in wrong]
        found.pairs += [] if wrong else [Pair(**values)]
    if faults:
        raise Ego2ExoError(f"{len(faults)} faulty name(s): {shorten_list(faults)}", "", "rename these files")
    return found


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """The regular expression of a pattern or template, for paths below the folder, with or without suffix."""
    try:
        expression = re.compile(pattern if "(?P<" in pattern else _from_template(pattern))
    except re.error as error:
        raise Ego2ExoError(f"--pattern {pattern!r} is no regular expression: {error}", _PATTERN_HELP) from error
    names = set(expression.groupindex)
    if not {"segment", "view"} <= names <= {"segment", "view", "take"}:
        raise Ego2ExoError(f"--pattern {pattern!r} has the groups {sorted(names) or 'none'}", _PATTERN_HELP)
    return expression


def _from_template(pattern: str) -> str:
    text, seen = "", set()
    for index, part in enumerate(re.split(r"\{(\w+)\}", pattern)):
        if index % 2 == 0:
            text += re.escape(part)
        else:
            # Greedy: `a_b_ego` by {segment}_{view} is `a_b` and `ego`.
            text += f"(?P={part})" if part in seen else f"(?P<{part}>[^/]+)"
            seen.add(part)
    return text


def _match(expression: re.Pattern[str], path: str) -> dict[str, str] | None:
    match = expression.fullmatch(os.path.splitext(path)[0]) or expression.fullmatch(path)
    return match.groupdict() if match and match["segment"] and match["view"] else None


def _videos(folder: str) -> Iterator[Path]:
    if not os.path.isdir(folder):
        raise Ego2ExoError(f"--videos {folder} is no folder", "an existing folder of videos", "check the path")
    visited = set()
    # Data sets are often put together from links to folders; one that leads back up is walked once.
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        folders[:] = [] if real in visited else [name for name in folders if not name.startswith(".")]
        if real not in visited:
            yield from (
                Path(root, name) for name in files
                if not name.startswith(".") and os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES
            )  # fmt: skip
        visited.add(real)


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """A key that sorts exo2 before exo10."""
    pieces = re.split(r"([0-9]+)", str(path))
    return [(1, int(piece), "") if index % 2 else (0, 0, piece) for index, piece in enumerate(pieces)]
