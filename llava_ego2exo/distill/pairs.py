"""Pairs: one segment seen by the ego camera and by one or more exo cameras, and the file that lists them."""

from __future__ import annotations

import json
import os
from codecs import BOM_UTF8
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import Ego2ExoError
from ..runs.files import write_whole
from ..runs.json_text import json_reason, not_utf8, parse_json, read_lines_of
from ..runs.listing import listed, repeated
from .record import EXAMPLE, FIELDS, record_faults

_CLEAN = "mend the paths; `llava-ego2exo pairs check --write-clean` writes a pairs file without what is missing"


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
            raise Ego2ExoError(f"pair {ascii(self.segment)[:60]}: {listed(faults)}", EXAMPLE, "mend these values")
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
        raise Ego2ExoError(f"record {listed(faults)}", EXAMPLE, "mend these values")
    values = {key: value for key, value in record.items() if value is not None}
    values["ego"] = os.path.join(folder, record["ego"])
    values["exo"] = {view: os.path.join(folder, path) for view, path in record["exo"].items()}
    return Pair(**values)


def read_pairs(path: str | Path) -> list[Pair]:
    """The pairs of a `pairs.jsonl`, in its order. Files are not looked at; `require_files` does that.

    Raises:
        Ego2ExoError: the file is missing, empty or faulty; names the first faulty lines and counts the rest.
    """
    folder = os.path.dirname(os.path.abspath(path))
    faults: list[str] = []
    pairs: list[Pair] = []
    lines: list[int] = []
    for number, line in enumerate(read_lines_of(path, "a pairs.jsonl"), 1):
        line = line.removeprefix(BOM_UTF8) if number == 1 else line
        if not line.strip():
            continue
        try:
            record = parse_json(line.decode(), checked=True)
        except UnicodeDecodeError as error:
            raise not_utf8(f"{path}, line {number},", "a pairs.jsonl", error) from error
        except ValueError as error:
            faults.append(f"line {number} is no JSON: {json_reason(error)}")
            continue
        wrong = record_faults(record)
        faults += [f"line {number} {fault}" for fault in wrong]
        if not wrong:
            pairs.append(pair_from_record(record, folder))
            lines.append(number)
    where: dict[str, list[str]] = {}
    for line, pair in zip(lines, pairs, strict=True):
        where.setdefault(pair.segment, []).append(str(line))
    faults += [f"segment {name!r} stands in lines {', '.join(at)}" for name, at in where.items() if len(at) > 1]
    if faults:
        raise Ego2ExoError(
            f"{path}: {len(faults)} fault(s): {listed(faults)}",
            f"one such object a line: {EXAMPLE}",
            "mend these lines",
        )
    if not pairs:
        raise Ego2ExoError(f"{path} holds no pair", "one pair a line", "make it with `llava-ego2exo pairs build`")
    return pairs


def write_pairs(path: str | Path, pairs: Iterable[Pair]) -> Path:
    """Write a `pairs.jsonl`: beside its place first, then renamed, so that a half-written file never stands there.

    Raises:
        Ego2ExoError: there is no pair, a segment's name stands twice, or the file cannot be written.
    """
    pairs, path = list(pairs), Path(os.path.abspath(path))
    twice = repeated(pair.segment for pair in pairs)
    if twice or not pairs:
        given = f"{path}: segment(s) named twice: {listed(twice)}" if twice else f"{path}: no pair to write"
        raise Ego2ExoError(given, "one or more pairs, each segment once", "give each segment a name of its own")
    return write_whole(path, "".join(f"{_line(pair, path.parent)}\n" for pair in pairs))


def require_files(pairs: Sequence[Pair], remedy: str = _CLEAN) -> None:
    """Refuse pairs whose videos are not there.

    Args:
        pairs: what to look at.
        remedy: what the error tells the user to do.

    Raises:
        Ego2ExoError: names the first missing files and counts the rest.
    """
    faults = [
        f"{pair.segment} {view}: {path}"
        for pair in pairs
        for view, path in pair.files.items()
        if not os.path.isfile(path)
    ]
    if faults:
        raise Ego2ExoError(
            f"{len(faults)} video(s) of the pairs are not there: {listed(faults)}",
            "existing files",
            remedy,
        )


def _line(pair: Pair, folder: Path) -> str:
    values = asdict(pair)
    values["ego"] = _relative(pair.ego, folder)
    values["exo"] = {view: _relative(path, folder) for view, path in pair.exo.items()}
    return json.dumps({field: values[field] for field in FIELDS}, ensure_ascii=False)


def _relative(path: str, folder: Path) -> str:
    file = Path(path)
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else file.as_posix()
