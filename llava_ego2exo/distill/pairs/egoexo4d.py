"""Pairs from a download of Ego-Exo4D: its takes, its keystep annotations and its downscaled videos.

Formats as in the data set's own documentation (docs/pairs.md lists what was read there, and what could not be tried).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...common.files import write_atomic
from ...common.json_io import read_json
from ...common.text import repeated, shorten_list
from ...errors import Ego2ExoError
from .pair import Pair, record_faults

KEYSTEP_FILES = {"train": "annotations/keystep_train.json", "val": "annotations/keystep_val.json"}
DOWNSCALED = "frame_aligned_videos/downscaled/448"
_DOWNLOAD = "download it: egoexo -o ROOT --parts metadata annotations downscaled_takes/448 --benchmarks keystep"
# Entries beside the cameras in `frame_aligned_videos`: pictures of several cameras at once.
_COLLAGES = frozenset({"collage", "best_exo"})


@dataclass
class Takes:
    """The annotated segments: pairs of the videos that exist, missing file -> uid of its take, and what is left out."""

    pairs: list[Pair] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    excluded: int = 0

    def lines(self) -> list[str]:
        """What is not among the pairs, by count and with the first few of each."""
        parts = {
            "video(s) missing": list(self.missing),
            "annotated take(s) not in takes.json": self.unknown,
            "segment(s) or take(s) not usable": self.faults,
        }
        lines = [f"{len(items)} {what}: {shorten_list(items, 3)}" for what, items in parts.items() if items]
        return lines + [f"{self.excluded} segment(s) excluded by filters"] * bool(self.excluded)


@dataclass(frozen=True)
class Filters:
    """Segments and views to read: views are "all", "best" (the data set's own) or names of cameras."""

    views: str | Sequence[str] = "all"
    takes: frozenset[str] | None = None
    scenarios: frozenset[str] | None = None
    min_s: float = 0.0
    max_s: float = float("inf")

    def accept(self, entry: Mapping[str, Any], segment: Mapping[str, Any]) -> bool:
        """Whether to read a segment of an annotated take."""
        return (
            (self.takes is None or str(entry.get("take_name")) in self.takes)
            and (self.scenarios is None or str(entry.get("scenario")) in self.scenarios)
            and self.min_s <= segment["end_time"] - segment["start_time"] <= self.max_s
        )

    def check(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Refuse names of takes and scenarios that no annotated take has."""
        for flag, names, key in (("--takes", self.takes, "take_name"), ("--scenarios", self.scenarios, "scenario")):
            known = {str(entry.get(key)) for entry in entries}
            unknown = sorted((names or frozenset()) - known)
            if unknown:
                given = f"{flag}: no annotated take has {shorten_list(unknown)}"
                raise Ego2ExoError(given, shorten_list(sorted(known), 10))


def read_takes(root: str | Path, filters: Filters = Filters()) -> Takes:
    """Read `takes.json` and the keystep annotations of a download, and check which videos exist."""
    root = Path(os.path.abspath(root))
    takes = {take["take_uid"]: take for take in _take_list(root / "takes.json")}
    entries = list(_annotations(root))
    twice = repeated(uid for _, uid, _ in entries)
    if twice:
        given = f"{len(twice)} take(s) are in both annotation files: {shorten_list(twice)}"
        raise Ego2ExoError(given, "a take in one split only", "download the annotations again")
    filters.check([entry for _, _, entry in entries])
    result = Takes()
    for split, uid, entry in entries:
        segments = list(_segments(entry, filters, result))
        if segments and uid in takes:
            _add_take(result, root, takes[uid], split, segments, filters)
        elif segments:
            result.unknown.append(f"{entry.get('take_name', '?')} ({uid})")
    if not result.pairs:
        raise Ego2ExoError(
            f"no pair in {root}: {'; '.join(result.lines()) or 'no annotated segment'}",
            f"takes/<take_name>/{DOWNSCALED}/<camera>.mp4 for an annotated take",
            _DOWNLOAD,
        )
    return result


def _take_list(path: Path) -> list[dict[str, Any]]:
    takes = read_json(path, "an Ego-Exo4D takes.json")
    keys = ("take_uid", "take_name")
    if not isinstance(takes, list) or not all(
        isinstance(take, dict) and all(isinstance(take.get(key), str) for key in keys) for take in takes
    ):
        given = f"{path} is not a list of takes with `take_uid` and `take_name`"
        raise Ego2ExoError(given, "an Ego-Exo4D takes.json", _DOWNLOAD)
    return takes


def _annotations(root: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(split, take_uid, entry) of every annotated take; an entry has `segments`."""
    files = {split: root / name for split, name in KEYSTEP_FILES.items() if (root / name).is_file()}
    if not files:
        raise Ego2ExoError(f"{root} has none of {', '.join(KEYSTEP_FILES.values())}", "one of them or both", _DOWNLOAD)
    for split, path in files.items():
        content = read_json(path, "keystep annotations")
        entries = content.get("annotations") if isinstance(content, dict) else None
        if not isinstance(entries, dict) or not all(
            isinstance(entry, dict) and isinstance(entry.get("segments"), list) for entry in entries.values()
        ):
            allowed = '{"annotations": {"<take_uid>": {"take_name", "segments": [{"start_time", "end_time"}]}}}'
            raise Ego2ExoError(f"{path} is not in the format of keystep annotations", allowed, _DOWNLOAD)
        yield from ((split, uid, entry) for uid, entry in entries.items())


def _segments(entry: dict[str, Any], filters: Filters, result: Takes) -> Iterator[tuple[int, float, float]]:
    """(index, start, end) of the segments that the filters accept."""
    for index, segment in enumerate(entry["segments"]):
        times = [segment.get(key) if isinstance(segment, dict) else None for key in ("start_time", "end_time")]
        if not all(isinstance(time, (int, float)) and not isinstance(time, bool) for time in times):
            result.faults.append(f"{entry.get('take_name')} segment {index} has the times {times}")
        elif filters.accept(entry, segment):
            yield index, float(times[0]), float(times[1])
        else:
            result.excluded += 1


def _add_take(
    result: Takes, root: Path, take: dict[str, Any], split: str, segments: Sequence[tuple[int, float, float]],
    filters: Filters,
) -> None:  # fmt: skip
    name, place = take["take_name"], take.get("root_dir")
    folder = root / (place if isinstance(place, str) and place else f"takes/{name}") / DOWNSCALED
    ego, exo = camera_files(take)
    if not ego or not exo:
        result.faults.append(f"{name}: takes.json names {len(ego)} ego and {len(exo)} exo videos")
        return
    views = view_names(list(exo))
    if filters.views != "all":
        cameras = (take.get("best_exo"),) if filters.views == "best" else filters.views
        exo = {camera: file for camera, file in exo.items() if camera in cameras}
    if not exo:
        result.faults.append(f"{name}: the filters exclude all of its cameras {', '.join(views)}")
        return
    paths = {"ego": folder / ego[0], **{views[camera]: folder / file for camera, file in exo.items()}}
    result.missing.update({str(path): take["take_uid"] for path in paths.values() if not path.is_file()})
    found = {view: str(path) for view, path in paths.items() if path.is_file()}
    ego_file = found.pop("ego", None)
    if not ego_file or not found:
        return
    for index, start, end in segments:
        values = {
            "segment": f"{name}_{index:04d}", "ego": ego_file, "exo": found, "start_s": start, "end_s": end,
            "split": split, "take": name,
        }  # fmt: skip
        faults = record_faults(values)
        result.faults += [f"{name} segment {index}: {fault}" for fault in faults]
        result.pairs += [] if faults else [Pair(**values)]


def camera_files(take: dict[str, Any]) -> tuple[list[str], dict[str, str]]:
    """File names of a take's ego videos (RGB stream; a usable take has one), and camera -> its exo video's."""
    cameras = _of(dict, take.get("capture")).get("cameras")
    named = [camera for camera in _of(list, cameras) if isinstance(camera, dict)]
    is_ego = {str(camera.get("cam_id")): camera.get("is_ego") for camera in named}
    ego, exo = [], {}
    for camera, streams in sorted(_of(dict, take.get("frame_aligned_videos")).items()):
        aria = camera.startswith("aria")
        path = _of(dict, _of(dict, streams).get("rgb" if aria else "0")).get("relative_path")
        if camera in _COLLAGES or not isinstance(path, str) or not path:
            continue
        if is_ego.get(camera, aria):
            ego.append((not aria, Path(path).name))
        else:
            exo[camera] = Path(path).name
    # A GoPro on a head is an ego camera too; Aria glasses are what the annotations were made on.
    return [name for _, name in sorted(ego)], exo


def _of(kind: type, value: Any) -> Any:
    """The value if it is of a kind, else an empty one: a take of another shape has no cameras, which is reported."""
    return value if isinstance(value, kind) else kind()


def view_names(cameras: Sequence[str]) -> dict[str, str]:
    """camera -> view: `exo<N>` with the number in the camera's name (cam03 is exo3), else counted from 1."""
    numbers = [re.search(r"(\d+)$", camera) for camera in cameras]
    values = [int(number[1]) if number else 0 for number in numbers]
    if len(set(values)) < len(values) or 0 in values:
        values = list(range(1, len(cameras) + 1))
    return {camera: f"exo{value}" for camera, value in zip(cameras, values, strict=True)}


def write_missing(folder: str | Path, missing: Mapping[str, str]) -> Path:
    """Write `<folder>/missing.txt`, or remove it if nothing is missing."""
    uids = " ".join(dict.fromkeys(missing.values()))
    head = [
        f"# {len(missing)} missing video(s). The data set's own downloader gets their takes with:",
        f"# egoexo -o ROOT --parts downscaled_takes/448 --uids {uids}",
    ]
    path = write_atomic(Path(folder, "missing.txt"), "\n".join([*head, *missing, ""]))
    if not missing:
        path.unlink()
    return path
