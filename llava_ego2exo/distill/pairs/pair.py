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

# What one record of a pairs file may say: one set of rules for a `Pair`, a line of JSON and a row of a manifest.

SPLITS = ("train", "val", "test")
REQUIRED = ("segment", "ego", "exo")
FIELDS = ("segment", "take", "ego", "exo", "start_s", "end_s", "offset_s", "split")
EXAMPLE = (
    '{"segment": "t1_0003", "take": "t1", "ego": "t1_0003_ego.mp4", "exo": {"exo1": "t1_0003_exo1.mp4"}, '
    '"start_s": null, "end_s": null, "offset_s": 0.0, "split": "train"}'
)
# Longer than any recording; also keeps out infinities, and integers that no float holds.
MAX_SECONDS = 1e7
# Names become parts of file names, with `_<view>.mp4` behind them; 255 bytes is what file systems take.
MAX_NAME_BYTES = 200
_VIEW = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def record_faults(record: Any) -> list[str]:
    """Everything that is wrong with one record, in words; empty where it is right."""
    if not isinstance(record, Mapping):
        return [f"is {_kind(record)}, not an object"]
    faults = []
    unknown = [str(key) for key in record if key not in FIELDS]
    if unknown:
        faults.append(f"has unknown key(s) {', '.join(map(ascii, unknown))}")
    missing = [key for key in REQUIRED if key not in record]
    if missing:
        faults.append(f"lacks {', '.join(missing)}")
    return [*faults, *_name_faults(record), *_path_faults(record), *_time_faults(record), *_split_faults(record)]


def _name_faults(record: Mapping[str, Any]) -> Iterator[str]:
    for key in ("segment", "take"):
        value = record.get(key)
        # No take means that the segment is a take of its own.
        if key not in record or (key == "take" and value in ("", None)):
            continue
        reason = _name_fault(value)
        if reason:
            yield f"{key} {_short(value)} {reason}"


def _name_fault(value: Any) -> str:
    if not isinstance(value, str):
        return f"is {_kind(value)}, not a string"
    if not value.strip() or value != value.strip():
        return "is empty or has blanks at its ends"
    if _not_text(value) or value.startswith((".", "-")) or set(value) & set('/\\:*?"<>|'):
        return "cannot be part of a file name"
    return f"is longer than {MAX_NAME_BYTES} bytes" if len(value.encode()) > MAX_NAME_BYTES else ""


def _path_faults(record: Mapping[str, Any]) -> Iterator[str]:
    if "ego" in record:
        yield from _path_fault("ego", record["ego"])
    exo = record.get("exo")
    if "exo" not in record:
        return
    if not isinstance(exo, Mapping) or not exo:
        yield f"exo is {_kind(exo) if exo or not isinstance(exo, Mapping) else 'empty'}, not an object of view: path"
        return
    for view, path in exo.items():
        if not isinstance(view, str) or not _VIEW.fullmatch(view) or view == "ego":
            yield f"exo view {_short(view)} is not a name of letters, digits, '.', '-' and '_' other than 'ego'"
        yield from _path_fault(f"exo {_short(view)}", path)


def _path_fault(name: str, path: Any) -> Iterator[str]:
    if not isinstance(path, str):
        yield f"{name} is {_kind(path)}, not a path"
    elif not path.strip():
        yield f"{name} is an empty path"
    elif _not_text(path):
        yield f"{name} {_short(path)} holds control characters or is no valid Unicode"


def _time_faults(record: Mapping[str, Any]) -> Iterator[str]:
    seconds = {}
    for key in ("start_s", "end_s", "offset_s"):
        value = record.get(key)
        if key not in record or (value is None and key != "offset_s"):
            continue
        # A comparison with NaN is false, so NaN is refused too.
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not -MAX_SECONDS < value < MAX_SECONDS:
            yield f"{key} {_short(value)} is not a number of seconds" + (" or null" if key != "offset_s" else "")
        elif key != "offset_s" and value < 0:
            yield f"{key} {value:g} lies before the start of the video"
        else:
            seconds[key] = value
    if "end_s" in seconds and seconds["end_s"] <= seconds.get("start_s", 0):
        yield f"end_s {seconds['end_s']:g} is not after start_s {seconds.get('start_s', 0):g}"


def _split_faults(record: Mapping[str, Any]) -> Iterator[str]:
    split = record.get("split", "train")
    if split not in SPLITS:
        yield f"split {_short(split)} is none of {', '.join(SPLITS)}"


def _not_text(value: str) -> bool:
    """Whether file systems or UTF-8 files would refuse it."""
    return any(ord(letter) < 32 or ord(letter) == 127 or 0xD800 <= ord(letter) <= 0xDFFF for letter in value)


def _kind(value: Any) -> str:
    names = {type(None): "null", bool: "true or false", str: "a string", list: "a list", dict: "an object"}
    return "a number" if type(value) in (int, float) else names.get(type(value), type(value).__name__)


def _short(value: Any) -> str:
    # An integer of more than 4300 digits has no decimal form; one of this size says nothing by its digits anyway.
    if isinstance(value, int) and abs(value) > MAX_SECONDS:
        return f"of {value.bit_length()} bits"
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
        Ego2ExoError: a value is not allowed; all of them are named.
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
            raise Ego2ExoError(f"pair {ascii(self.segment)[:60]}: {shorten_list(faults)}", EXAMPLE, "mend these values")
        object.__setattr__(self, "ego", os.path.abspath(self.ego))
        object.__setattr__(self, "exo", {view: os.path.abspath(path) for view, path in self.exo.items()})
        object.__setattr__(self, "take", self.take or self.segment)

    @property
    def files(self) -> dict[str, str]:
        """View -> path, "ego" first."""
        return {"ego": self.ego, **self.exo}


def pair_from_record(record: dict[str, Any], folder: str | Path) -> Pair:
    """A `Pair` from one record whose relative paths count from `folder`.

    Raises:
        Ego2ExoError: the record is not allowed.
    """
    faults = record_faults(record)
    if faults:
        raise Ego2ExoError(f"record {shorten_list(faults)}", EXAMPLE, "mend these values")
    values = {key: value for key, value in record.items() if value is not None}
    values["ego"] = os.path.join(folder, record["ego"])
    values["exo"] = {view: os.path.join(folder, path) for view, path in record["exo"].items()}
    return Pair(**values)
