"""Pairs in a folder, found by the names of its files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...common.text import repeated, shorten_list
from ...errors import Ego2ExoError
from ...video.limits import VIDEO_SUFFIXES
from .pair import EGO, Pair, record_faults

KEYSTEP = re.compile(r"(?:.*/)?(?P<segment>[^/]+)_(?P<view>ego|exo\d+)")
# The keystep clips of Ego-Exo4D: of the Aria glasses the RGB stream, the cameras on tripods are cam01 or gp01.
EGO_EXO4D = "ego-exo4d"
_EGO_EXO4D = re.compile(
    r"(?:(?:.*/)?(?P<split>train|val|test)/)?(?:.*/)?(?P<take>[^/]+)/(?P<segment>start[^_/]+_end[^_/]+)"
    r"_(?P<view>(?:aria|cam|gp)\d+)(?:(?<=aria\d\d)_214-1)?"
)
_PATTERN_HELP = (
    "a regular expression with the groups (?P<segment>...) and (?P<view>...), a template such as "
    f"{{take}}/{{segment}}_{{view}}, where `take` and `split` are optional; or {EGO_EXO4D}"
)


@dataclass
class FoundPairs:
    """The videos of a folder: pairs, segment -> its views where a side is missing, and videos of other names."""

    pairs: list[Pair] = field(default_factory=list)
    unpaired: dict[str, dict[str, str]] = field(default_factory=dict)
    other: list[str] = field(default_factory=list)
    has_splits: bool = False  # whether names say which split a pair is of

    def unpaired_lines(self) -> list[str]:
        """A line for each unpaired segment, with the side it lacks."""
        return [
            f"{segment}: no {'exo' if EGO in views else 'ego'} view beside {', '.join(views.values())}"
            for segment, views in self.unpaired.items()
        ]


@dataclass
class _Segment:
    """The videos of one segment: view -> path."""

    take: str
    name: str
    split: str | None
    views: dict[str, str] = field(default_factory=dict)
    egos: list[str] = field(default_factory=list)  # which views are ego views

    def pairs(self) -> Iterator[dict[str, Any]]:
        """The values of a pair for each ego view; none where a side is missing."""
        exo = {view: path for view, path in self.views.items() if view not in self.egos}
        for view in self.egos if exo else []:
            name = f"{self.name}_{view}" if len(self.egos) > 1 else self.name
            split = {"split": self.split} if self.split else {}
            yield {"segment": name, "ego": self.views[view], "exo": exo, "take": self.take, **split}


def find_pairs(
    folder: str | Path, pattern: str | None = None, ego_view: str | None = None, shared_exo: bool = False
) -> FoundPairs:
    """Pair the videos of a folder and its subfolders by their paths; names that start with a dot are skipped.

    Without a pattern: `<segment>_ego.mp4`, `<segment>_exo<N>.mp4`, with any video suffix. Where a segment's name is in
    several takes, all segments are called `<take>_<segment>`.

    Args:
        folder: its own name may be the take or split of the pattern "ego-exo4d".
        pattern: a regular expression, a template or "ego-exo4d"; None: the names above.
        ego_view: name of the ego view, or several with commas between; None: "ego", or what "ego-exo4d" says.
        shared_exo: several ego views of a segment make a pair each, `<segment>_<ego view>`, with the same exo views.

    Raises:
        Ego2ExoError: no folder, no match, a faulty name, or two files for one view of a segment.
    """
    if pattern == EGO_EXO4D and ego_view:
        given = f"--ego-view {ego_view} with --pattern {EGO_EXO4D}"
        raise Ego2ExoError(given, "the Aria glasses, which are its ego view", "leave --ego-view out")
    found = FoundPairs()
    segments, clashes = _segments(os.path.abspath(folder), pattern, found)
    egos = {name.strip() for name in (ego_view or EGO).split(",")}
    for one in segments:
        one.egos = [view for view in one.views if (view.startswith("aria") if pattern == EGO_EXO4D else view in egos)]
        if EGO in one.views and EGO not in one.egos:
            clashes.append(f"{one.name} {EGO}: {one.views[EGO]}, and the ego view has another name")
    several = [one for one in segments if len(one.egos) > 1 and not shared_exo]
    clashes += [f"{one.name} {EGO}: {' and '.join(one.views[view] for view in one.egos)}" for one in several]
    if clashes:
        raise Ego2ExoError(
            f"{len(clashes)} view(s) of a segment found twice: {shorten_list(clashes)}",
            "one file for each view of a segment, in one split",
            "remove one of the files, or pass a --pattern whose `take` or `segment` distinguishes them"
            + ("; --shared-exo makes a pair of each ego view, with the same exo views" if several else ""),
        )
    if not segments:
        wanted = f"--pattern {pattern}" if pattern else "<segment>_ego.mp4 and <segment>_exo<N>.mp4"
        examples = shorten_list(found.other, 3)
        named = f"none of {len(found.other)} video(s) in {folder} is named like {wanted}: {examples}"
        given = named if found.other else f"{folder} holds no video ({' '.join(sorted(VIDEO_SUFFIXES))})"
        raise Ego2ExoError(given, _PATTERN_HELP, "check the path, or pass --pattern or --manifest")
    faults = []
    for one in segments:
        pairs = list(one.pairs())
        if not pairs:
            found.unpaired[one.name] = {EGO if view in one.egos else view: path for view, path in one.views.items()}
        for values in pairs:
            wrong = record_faults(values)
            faults += [f"{values['ego']}: {fault}" for fault in wrong]
            found.pairs += [] if wrong else [Pair(**values)]
    if faults:
        raise Ego2ExoError(f"{len(faults)} faulty name(s): {shorten_list(faults)}", "", "rename these files")
    found.has_splits = any(one.split for one in segments)
    return found


def _segments(folder: str, pattern: str | None, found: FoundPairs) -> tuple[list[_Segment], list[str]]:
    """The segments of a folder, and what is there twice; videos of other names go into `found.other`."""
    expression = _EGO_EXO4D if pattern == EGO_EXO4D else compile_pattern(pattern) if pattern else KEYSTEP
    root = os.path.dirname(folder) if pattern == EGO_EXO4D else folder
    segments: dict[tuple[str, str], _Segment] = {}
    clashes = []
    for path in sorted(_videos(folder), key=_natural):
        groups = _match(expression, path.relative_to(root).as_posix())
        if groups is None:
            found.other.append(str(path))
            continue
        name, view, split = groups["segment"], groups["view"], groups.get("split")
        take = groups.get("take") or name
        one = segments.setdefault((take, name), _Segment(take, name, split))
        if view in one.views or one.split != split:
            clashes.append(f"{name} {view}: {one.views.get(view) or next(iter(one.views.values()))} and {path}")
        one.views.setdefault(view, str(path))
    if repeated(name for _, name in segments):
        for one in segments.values():
            one.name = f"{one.take}_{one.name}"
    twice = repeated(one.name for one in segments.values())
    return list(segments.values()), [*clashes, *(f"segment {name} of several takes" for name in twice)]


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """The regular expression of a pattern or template, for paths below the folder, with or without suffix."""
    try:
        expression = re.compile(pattern if "(?P<" in pattern else _from_template(pattern))
    except re.error as error:
        raise Ego2ExoError(f"--pattern {pattern!r} is no regular expression: {error}", _PATTERN_HELP) from error
    names = set(expression.groupindex)
    if not {"segment", "view"} <= names <= {"segment", "view", "take", "split"}:
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
