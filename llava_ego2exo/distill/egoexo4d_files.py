"""The files of Ego-Exo4D that pairs come from: takes.json and the keystep annotations.

Formats as in the data set's own documentation (docs/pairs.md says what was read where, and what could not be tried).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..common.json_io import read_json
from ..errors import Ego2ExoError

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
