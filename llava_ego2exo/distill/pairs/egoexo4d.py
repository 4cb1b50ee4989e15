"""Pairs from a download of Ego-Exo4D: its takes, its keystep annotations and its downscaled videos."""

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

# The files of Ego-Exo4D that pairs come from: takes.json and the keystep annotations.
#
# Formats as in the data set's own documentation (docs/pairs.md says what was read where, and what could not be tried).

KEYSTEP_FILES = {"train": "annotations/keystep_train.json", "val": "annotations/keystep_val.json"}
GET_METADATA = "mend --root, or download it: egoexo -o ROOT --parts metadata"
# Entries beside the cameras in `frame_aligned_videos`: pictures of several cameras at once.
_COLLAGES = frozenset({"collage", "best_exo"})


def take_list(path: Path) -> list[dict[str, Any]]:
    """The takes of a takes.json.

    Raises:
        Ego2ExoError: it is missing or not in the format.
    """
    if not path.is_file():
        raise Ego2ExoError(f"{path} is not there", "the folder of an Ego-Exo4D download", GET_METADATA)
    takes = read_json(path, "a file of Ego-Exo4D")
    if not isinstance(takes, list) or not all(isinstance(take, dict) and _named(take) for take in takes):
        given = f"{path} is no list of takes with `take_uid` and `take_name`"
        raise Ego2ExoError(given, "Ego-Exo4D's own takes.json", GET_METADATA)
    return takes


def _named(take: dict[str, Any]) -> bool:
    return all(isinstance(take.get(key), str) for key in ("take_uid", "take_name"))


def annotations(root: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(split, take_uid, entry) of every annotated take; an entry has `segments`.

    Raises:
        Ego2ExoError: no annotation file is there, or one is not in the format.
    """
    there = {split: root / name for split, name in KEYSTEP_FILES.items() if (root / name).is_file()}
    if not there:
        raise Ego2ExoError(
            f"{root} has none of {', '.join(KEYSTEP_FILES.values())}",
            "one of them or both",
            "download them: egoexo -o ROOT --parts annotations --benchmarks keystep",
        )
    for split, path in there.items():
        whole = read_json(path, "a file of Ego-Exo4D")
        entries = whole.get("annotations") if isinstance(whole, dict) else None
        good = isinstance(entries, dict) and all(
            isinstance(entry, dict) and isinstance(entry.get("segments"), list) for entry in entries.values()
        )
        if not good:
            allowed = '{"annotations": {"<take_uid>": {"take_name", "segments": [{"start_time", "end_time"}]}}}'
            raise Ego2ExoError(f"{path} is not in the format of keystep annotations", allowed, "download it again")
        yield from ((split, uid, entry) for uid, entry in entries.items())


def camera_files(take: dict[str, Any]) -> tuple[list[str], dict[str, str]]:
    """The ego video (RGB stream) and the exo videos of a take, as names of files.

    Returns:
        names of ego videos (one where the take is usable), and camera -> name of its exo video.
    """
    cameras = _of(dict, take.get("capture")).get("cameras")
    named = [camera for camera in _of(list, cameras) if isinstance(camera, dict)]
    is_ego = {str(camera.get("cam_id")): camera.get("is_ego") for camera in named}
    ego, exo = [], {}
    for camera, streams in sorted(_of(dict, take.get("frame_aligned_videos")).items()):
        if camera in _COLLAGES or not isinstance(streams, dict):
            continue
        aria = camera.startswith("aria")
        path = _of(dict, streams.get("rgb" if aria else "0")).get("relative_path")
        if not isinstance(path, str) or not path:
            continue
        name = Path(path).name
        if is_ego.get(camera, aria):
            ego.append((not aria, name))
        else:
            exo[camera] = name
    # A GoPro on a head is an ego camera too; Aria glasses are what the annotations were made on.
    return [name for _, name in sorted(ego)], exo


def view_names(cameras: Sequence[str]) -> dict[str, str]:
    """camera -> view: `exo<N>` with the number in the camera's name (cam03 is exo3), else counted from 1."""
    numbers = [re.search(r"(\d+)$", camera) for camera in cameras]
    values = [int(number[1]) if number else 0 for number in numbers]
    if len(set(values)) < len(values) or 0 in values:
        values = list(range(1, len(cameras) + 1))
    return {camera: f"exo{value}" for camera, value in zip(cameras, values, strict=True)}


def _of(kind: type, value: Any) -> Any:
    """The value where it is of a kind, else an empty one: a take of another shape has no cameras, which is told."""
    return value if isinstance(value, kind) else kind()


DOWNSCALED = "frame_aligned_videos/downscaled/448"


@dataclass
class Takes:
    """What the annotations ask for and what of it is there.

    Args:
        pairs: segments in the takes' downscaled videos, with `start_s` and `end_s`; only views whose files are there.
        missing: files that are not there, with the take's uid behind them.
        unknown: annotated takes that takes.json does not name.
        faults: segments and takes that cannot be used, and why.
        excluded: number of segments that the filters left out.
    """

    pairs: list[Pair] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    excluded: int = 0

    def lines(self) -> list[str]:
        """What was left out, by count and with the first few of each."""
        parts = {
            "video(s) missing": list(self.missing),
            "annotated take(s) not in takes.json": self.unknown,
            "segment(s) or take(s) not usable": self.faults,
        }
        lines = [f"{len(items)} {what}: {shorten_list(items, 3)}" for what, items in parts.items() if items]
        return lines + [f"{self.excluded} segment(s) excluded by your filters"] * bool(self.excluded)


@dataclass(frozen=True)
class Filters:
    """Which segments and views are wanted.

    Args:
        views: "all", "best" (the data set's own `best_exo`), or names of cameras.
        takes: names of takes; None: all.
        scenarios: names of scenarios; None: all.
        min_s: shortest segment, in seconds.
        max_s: longest segment, in seconds.
        essential: only segments marked `is_essential`.
    """

    views: str | Sequence[str] = "all"
    takes: frozenset[str] | None = None
    scenarios: frozenset[str] | None = None
    min_s: float = 0.0
    max_s: float = float("inf")
    essential: bool = False

    def wants(self, entry: dict[str, Any], segment: dict[str, Any]) -> bool:
        """Whether a segment of an annotated take is wanted."""
        seconds = segment["end_time"] - segment["start_time"]
        return (
            (self.takes is None or str(entry.get("take_name")) in self.takes)
            and (self.scenarios is None or str(entry.get("scenario")) in self.scenarios)
            and self.min_s <= seconds <= self.max_s
            and (not self.essential or bool(segment.get("is_essential")))
        )


def read_takes(root: str | Path, filters: Filters = Filters()) -> Takes:
    """Read `takes.json` and the keystep annotations below `root`, and look which videos are there.

    Args:
        root: the download.
        filters: what is wanted.

    Raises:
        Ego2ExoError: a file is missing or not in the format, a filter names a take or scenario that is not there,
            or no pair comes out.
    """
    root = Path(os.path.abspath(root))
    by_uid = {take["take_uid"]: take for take in take_list(root / "takes.json")}
    entries = list(annotations(root))
    both = repeated(uid for _, uid, _ in entries)
    if both:
        given = f"{len(both)} take(s) stand in both annotation files: {shorten_list(both)}"
        raise Ego2ExoError(given, "a take in one split only", "download the annotations again")
    _check_filters(filters, [entry for _, _, entry in entries])
    result = Takes()
    for split, uid, entry in entries:
        wanted = list(_wanted(entry, filters, result))
        if not wanted:
            continue
        if uid not in by_uid:
            result.unknown.append(f"{entry.get('take_name', '?')} ({uid})")
            continue
        _add_take(result, root, by_uid[uid], split, wanted, filters)
    if not result.pairs:
        raise Ego2ExoError(
            f"no pair in {root}: {'; '.join(result.lines()) or 'no annotated segment'}",
            f"takes/<take_name>/{DOWNSCALED}/<camera>.mp4 for an annotated take",
            "download them: egoexo -o ROOT --parts metadata annotations downscaled_takes/448 --benchmarks keystep",
        )
    return result


def _add_take(
    result: Takes,
    root: Path,
    take: dict[str, Any],
    split: str,
    wanted: list[tuple[int, float, float]],
    filters: Filters,
) -> None:
    name, uid = take["take_name"], take["take_uid"]
    place = take.get("root_dir")
    folder = root / (place if isinstance(place, str) and place else f"takes/{name}") / DOWNSCALED
    ego, exo = camera_files(take)
    if not ego or not exo:
        result.faults.append(f"{name}: takes.json names {len(ego)} ego and {len(exo)} exo videos")
        return
    views = view_names(list(exo))
    if filters.views == "best":
        exo = {camera: file for camera, file in exo.items() if camera == take.get("best_exo")}
    elif filters.views != "all":
        exo = {camera: file for camera, file in exo.items() if camera in filters.views}
    if not exo:
        result.faults.append(f"{name}: none of its cameras {', '.join(views)} is wanted")
        return
    paths = {camera: folder / file for camera, file in exo.items()}
    lacking = [path for path in (folder / ego[0], *paths.values()) if not path.is_file()]
    result.missing.update(dict.fromkeys(map(str, lacking), uid))
    there = {views[camera]: str(path) for camera, path in paths.items() if path not in lacking}
    if folder / ego[0] in lacking or not there:
        return
    for index, start, end in wanted:
        values = {
            "segment": f"{name}_{index:04d}", "ego": str(folder / ego[0]), "exo": there, "start_s": start, "end_s": end,
            "split": split, "take": name,
        }  # fmt: skip
        faults = record_faults(values)
        result.faults += [f"{name} segment {index}: {fault}" for fault in faults]
        if not faults:
            result.pairs.append(Pair(**values))


def _wanted(entry: dict[str, Any], filters: Filters, result: Takes) -> Iterator[tuple[int, float, float]]:
    for index, segment in enumerate(entry["segments"]):
        times = [segment.get(key) if isinstance(segment, dict) else None for key in ("start_time", "end_time")]
        if not all(isinstance(time, (int, float)) and not isinstance(time, bool) for time in times):
            result.faults.append(f"{entry.get('take_name')} segment {index} has the times {times}")
        elif filters.wants(entry, segment):
            yield index, float(times[0]), float(times[1])
        else:
            result.excluded += 1


def _check_filters(filters: Filters, entries: list[dict[str, Any]]) -> None:
    for flag, wanted, key in (("--takes", filters.takes, "take_name"), ("--scenarios", filters.scenarios, "scenario")):
        known = {str(entry.get(key)) for entry in entries}
        strange = sorted((wanted or frozenset()) - known)
        if strange:
            some = ", ".join(sorted(known)[:10])
            raise Ego2ExoError(
                f"{flag}: no annotated take has {shorten_list(strange)}", f"{some}{', ...' * (len(known) > 10)}"
            )


# A list of videos that are missing from an Ego-Exo4D download.


def write_missing(folder: str | Path, missing: Mapping[str, str]) -> Path:
    """Write `<folder>/missing.txt`, or remove an old one where nothing is missing.

    Args:
        folder: made where it is not there.
        missing: path -> uid of its take.

    Raises:
        Ego2ExoError: the folder or file cannot be written.
    """
    path = Path(folder, "missing.txt")
    uids = " ".join(dict.fromkeys(missing.values()))
    head = [
        f"# {len(missing)} missing video(s). The data set's own downloader gets their takes with:",
        f"# egoexo -o ROOT --parts downscaled_takes/448 --uids {uids}",
    ]
    if missing:
        return write_atomic(path, "\n".join([*head, *missing, ""]))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
    except OSError as error:
        raise Ego2ExoError(f"{path} cannot be written: {error.strerror}", "a folder of yours", "mend --out") from error
    return path
