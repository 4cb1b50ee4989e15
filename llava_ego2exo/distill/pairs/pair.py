"""A pair: one segment seen by the ego camera and by one or more exo cameras."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...common.text import shorten_list
from ...errors import Ego2ExoError

EGO = "ego"
SPLITS = ("train", "val", "test")
FIELDS = ("segment", "take", "ego", "exo", "start_s", "end_s", "offset_s", "split")
EXAMPLE = (
    '{"segment": "t1_0003", "take": "t1", "ego": "t1_0003_ego.mp4", "exo": {"exo1": "t1_0003_exo1.mp4"}, '
    '"start_s": null, "end_s": null, "offset_s": 0.0, "split": "train"}'
)
# Longer than any recording, and below infinity.
MAX_SECONDS = 1e7
# Names become parts of file names, followed by `_<view>.mp4`; file systems take 255 bytes.
MAX_NAME_BYTES = 200
_VIEW = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_CONTROL = "\x00-\x1f\x7f\ud800-\udfff"
_NAME = re.compile(rf'(?![.\-\s])[^/\\:*?"<>|{_CONTROL}]+(?<!\s)')
_PATH = re.compile(rf"(?=.*\S)[^{_CONTROL}]+")


def record_faults(record: Any) -> list[str]:
    """What is wrong with one record: a line of a pairs file, a row of a manifest, or the values of a `Pair`."""
    if not isinstance(record, Mapping):
        return [f"is a {type(record).__name__}, not an object"]
    unknown = [ascii(key) for key in record if key not in FIELDS]
    missing = [key for key in ("segment", "ego", "exo") if key not in record]
    faults = [f"has unknown key(s) {', '.join(unknown)}"] if unknown else []
    faults += [f"lacks {', '.join(missing)}"] if missing else []
    return [*faults, *_name_faults(record), *_path_faults(record), *_time_faults(record)]


def _name_faults(record: Mapping[str, Any]) -> Iterator[str]:
    for key in ("segment", "take"):
        value = record.get(key)
        if key not in record or (key == "take" and not value):
            continue
        if not (isinstance(value, str) and _NAME.fullmatch(value) and len(value.encode()) <= MAX_NAME_BYTES):
            yield f"{key} {_short(value)} cannot be part of a file name of at most {MAX_NAME_BYTES} bytes"
    split = record.get("split", "train")
    if split not in SPLITS:
        yield f"split {_short(split)} is not one of {', '.join(SPLITS)}"


def _path_faults(record: Mapping[str, Any]) -> Iterator[str]:
    exo = record.get("exo")
    if "exo" in record and not (isinstance(exo, Mapping) and exo):
        yield f"exo {_short(exo)} is not an object of view: path"
    paths = {f"exo {_short(view)}": (view, path) for view, path in exo.items()} if isinstance(exo, Mapping) else {}
    for name, (view, _) in paths.items():
        if not isinstance(view, str) or not _VIEW.fullmatch(view) or view == EGO:
            yield f"{name} is not a view's name: letters, digits, '.', '-' and '_', and not {EGO!r}"
    paths |= {EGO: (EGO, record[EGO])} if EGO in record else {}
    for name, (_, path) in paths.items():
        if not isinstance(path, str) or not _PATH.fullmatch(path):
            yield f"{name} {_short(path)} is not a path"


def _time_faults(record: Mapping[str, Any]) -> Iterator[str]:
    seconds = {}
    for key in ("start_s", "end_s", "offset_s"):
        value = record.get(key)
        if key not in record or (value is None and key != "offset_s"):
            continue
        # A comparison with NaN is false, so NaN is refused too.
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not -MAX_SECONDS < value < MAX_SECONDS:
            yield f"{key} {_short(value)} is not a number of seconds"
        elif key != "offset_s" and value < 0:
            yield f"{key} {value:g} is before the start of the video"
        else:
            seconds[key] = value
    if "end_s" in seconds and seconds["end_s"] <= seconds.get("start_s", 0):
        yield f"end_s {seconds['end_s']:g} is not after start_s {seconds.get('start_s', 0):g}"


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


@dataclass(frozen=True)
class Pair:
    """One segment: its ego clip (what the teacher sees) and its exo views (what the student sees).

    Args:
        segment: its name, unique in a file.
        ego: path of the ego video, made absolute.
        exo: view -> path of that exo video, made absolute; at least one.
        start_s: where the segment begins in the ego video, in seconds; None: at its start.
        end_s: where it ends, in seconds; None: at the video's end.
        offset_s: seconds to add to ego time for exo time.
        split: "train", "val" or "test".
        take: the recording that the segment belongs to; empty: the segment is a take of its own.

    Raises:
        Ego2ExoError: values are not allowed; names all of them.
    """

    segment: str
    ego: str
    exo: dict[str, str]
    start_s: float | None = None
    end_s: float | None = None
    offset_s: float = 0.0
    split: str = "train"
    take: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.ego, os.PathLike):
            object.__setattr__(self, "ego", os.fspath(self.ego))
        if isinstance(self.exo, dict):
            paths = {v: os.fspath(p) if isinstance(p, os.PathLike) else p for v, p in self.exo.items()}
            object.__setattr__(self, "exo", paths)
        faults = record_faults(asdict(self))
        if faults:
            raise Ego2ExoError(f"pair {_short(self.segment)}: {shorten_list(faults)}", EXAMPLE, "fix these values")
        object.__setattr__(self, "ego", os.path.abspath(self.ego))
        object.__setattr__(self, "exo", {view: os.path.abspath(path) for view, path in self.exo.items()})
        object.__setattr__(self, "take", self.take or self.segment)

    @property
    def files(self) -> dict[str, str]:
        """View -> path, "ego" first."""
        return {EGO: self.ego, **self.exo}


def pair_from_record(record: dict[str, Any], folder: str | Path) -> Pair:
    """The `Pair` of a record without :func:`record_faults`, whose relative paths start at `folder`."""
    values = {key: value for key, value in record.items() if value is not None}
    values["ego"] = os.path.join(folder, record["ego"])
    values["exo"] = {view: os.path.join(folder, path) for view, path in record["exo"].items()}
    return Pair(**values)
