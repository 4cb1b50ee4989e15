"""Find pairs in a folder by the names of its files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ...common.text import repeated, shorten_list
from ...errors import Ego2ExoError
from ...video.limits import VIDEO_SUFFIXES
from .file import Pair
from .pair import record_faults

KEYSTEP = re.compile(r"(?:.*/)?(?P<segment>[^/]+)_(?P<view>ego|exo\d+)")
EGO = "ego"
_GROUPS = ("segment", "view", "take")
_PATTERN_HELP = (
    "a regular expression with the groups (?P<segment>...) and (?P<view>...), or a template such as "
    "{take}/{segment}_{view}; `take` may be left out"
)


@dataclass
class Found:
    """What a folder holds.

    Args:
        pairs: the complete ones, by segment.
        unpaired: segment -> its views, where the ego view or every exo view is missing.
        other: videos whose names do not match.
    """

    pairs: list[Pair] = field(default_factory=list)
    unpaired: dict[str, dict[str, str]] = field(default_factory=dict)
    other: list[str] = field(default_factory=list)

    def unpaired_lines(self) -> list[str]:
        """One line for each unpaired segment, that says what it lacks."""
        return [
            f"{segment}: {'no exo view beside' if EGO in views else 'no ego view beside'} {', '.join(views.values())}"
            for segment, views in self.unpaired.items()
        ]


def find_pairs(folder: str | Path, pattern: str | None = None, ego_view: str = EGO) -> Found:
    """Pair the videos below `folder` by their paths.

    Args:
        folder: searched with its subfolders; names that start with a dot are passed over.
        pattern: see `compile_pattern`; None: `<segment>_ego.mp4`, `<segment>_exo<N>.mp4`, with any video suffix. Where
            takes count their segments alike, all segments are called `<take>_<segment>`.
        ego_view: what the pattern's `view` reads for the ego camera.

    Raises:
        Ego2ExoError: no folder, no match, a faulty name, or two files for one view of a segment.
    """
    expression = compile_pattern(pattern) if pattern else KEYSTEP
    folder = os.path.abspath(folder)
    found = Found()
    keyed: dict[tuple[str, str], dict[str, str]] = {}
    clashes: list[str] = []
    for path in sorted(_videos(folder), key=_natural):
        groups = _match(expression, path.relative_to(folder).as_posix())
        if groups is None:
            found.other.append(str(path))
            continue
        segment, view = groups["segment"], EGO if groups["view"] == ego_view else groups["view"]
        views = keyed.setdefault((groups.get("take") or segment, segment), {})
        if view in views or (view == EGO and groups["view"] != ego_view):
            clashes.append(f"{segment} {view}: {views.get(view, 'the ego view has another name')} and {path}")
        views.setdefault(view, str(path))
    names = _unique_names(keyed)
    clashes += [f"segment {name} of several takes" for name in repeated(names.values())]
    _refuse(folder, pattern, bool(keyed), clashes, found)
    faults = []
    for (take, segment), views in keyed.items():
        name = names[take, segment]
        exo = {view: path for view, path in views.items() if view != EGO}
        if EGO not in views or not exo:
            found.unpaired[name] = views
            continue
        values = {"segment": name, "ego": views[EGO], "exo": exo, "take": take}
        wrong = record_faults(values)
        faults += [f"{views[EGO]}: {fault}" for fault in wrong]
        if not wrong:
            found.pairs.append(Pair(**values))
    if faults:
        raise Ego2ExoError(f"{len(faults)} faulty name(s): {shorten_list(faults)}", "", "rename these files")
    return found


def _unique_names(keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """(take, segment) -> name: the segment, or `<take>_<segment>` for all where takes count their segments alike."""
    keys = list(keys)
    alike = repeated(segment for _, segment in keys)
    return {(take, segment): f"{take}_{segment}" if alike else segment for take, segment in keys}


def unpaired_beside(paths: Iterable[str]) -> dict[str, dict[str, str]]:
    """Segments by keystep names, in the folders of `paths` but not below them, that lack their ego or every exo."""
    unpaired = {}
    for folder in sorted({os.path.dirname(path) for path in paths if os.path.isdir(os.path.dirname(path))}):
        segments: dict[str, dict[str, str]] = {}
        for name in sorted(filter(_is_video, os.listdir(folder))):
            groups = _match(KEYSTEP, name)
            if groups:
                segments.setdefault(groups["segment"], {})[groups["view"]] = os.path.join(folder, name)
        unpaired.update({name: views for name, views in segments.items() if EGO not in views or len(views) == 1})
    return unpaired


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """The regular expression of a pattern; it is matched against the path below the folder, with or without suffix.

    Args:
        pattern: a regular expression with named groups, or a template with {segment}, {view} and perhaps {take}.

    Raises:
        Ego2ExoError: it is neither, lacks a group, or has a group of another name.
    """
    text = pattern if "(?P<" in pattern else _from_template(pattern)
    try:
        expression = re.compile(text)
    except re.error as error:
        raise Ego2ExoError(f"--pattern {pattern!r} is no regular expression: {error}", _PATTERN_HELP) from error
    names = set(expression.groupindex)
    if not {"segment", "view"} <= names <= set(_GROUPS):
        raise Ego2ExoError(f"--pattern {pattern!r} has the groups {sorted(names) or 'none'}", _PATTERN_HELP)
    return expression


def _from_template(pattern: str) -> str:
    parts = re.split(r"\{(\w+)\}", pattern)
    seen: set[str] = set()
    text = ""
    for index, part in enumerate(parts):
        if index % 2 == 0:
            text += re.escape(part)
        elif part in seen:
            text += f"(?P={part})"
        else:
            # The first takes as much as it can: `a_b_ego` by {segment}_{view} is `a_b` and `ego`.
            text += f"(?P<{part}>[^/]+)"
            seen.add(part)
    return text


def _match(expression: re.Pattern[str], path: str) -> dict[str, str] | None:
    match = expression.fullmatch(os.path.splitext(path)[0]) or expression.fullmatch(path)
    return match.groupdict() if match and match["segment"] and match["view"] else None


def _videos(folder: str | Path) -> Iterator[Path]:
    if not os.path.isdir(folder):
        raise Ego2ExoError(f"--videos {folder} is no folder", "an existing folder of videos", "check the path")
    visited = set()
    # Data sets are often put together from links to folders; a link that leads back up is walked once.
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        folders[:] = [] if real in visited else [name for name in folders if not name.startswith(".")]
        if real not in visited:
            yield from (Path(root, name) for name in files if _is_video(name))
        visited.add(real)


def _is_video(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """A key by which exo2 comes before exo10."""
    pieces = re.split(r"([0-9]+)", str(path))
    return [(1, int(piece), "") if index % 2 else (0, 0, piece) for index, piece in enumerate(pieces)]


def _refuse(
    folder: str | Path,
    pattern: str | None,
    matched: bool,
    clashes: list[str],
    found: Found,
) -> None:
    if clashes:
        raise Ego2ExoError(
            f"{len(clashes)} view(s) of a segment found twice: {shorten_list(clashes)}",
            "one file for each view of a segment",
            "take one of the files away, or pass a --pattern whose `take` or `segment` tells them apart",
        )
    if not matched:
        wanted = f"--pattern {pattern!r}" if pattern else "<segment>_ego.mp4 and <segment>_exo<N>.mp4"
        if not found.other:
            raise Ego2ExoError(
                f"{folder} holds no video",
                f"files with the suffixes {' '.join(sorted(VIDEO_SUFFIXES))}",
                "check the path, or rename the files",
            )
        names = shorten_list(found.other, 3)
        given = f"none of {len(found.other)} video(s) in {folder} is named like {wanted}: {names}"
        raise Ego2ExoError(given, _PATTERN_HELP, "pass --pattern or --manifest")
