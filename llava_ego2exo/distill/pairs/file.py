"""Pairs of segments and the file that lists them."""

from __future__ import annotations

import json
import os
from codecs import BOM_UTF8
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...common.files import write_atomic
from ...common.json_io import json_reason, parse_json, read_raw_lines
from ...common.text import repeated, shorten_list
from ...errors import Ego2ExoError
from .pair import EXAMPLE, FIELDS, Pair, pair_from_record, record_faults

# The lines of a pairs file, faulty or not.


@dataclass
class Scanned:
    """What the lines of a pairs file hold.

    Args:
        pairs: of the lines without fault, in their order; a segment's name may stand twice.
        lines: the number of each pair's line, from 1.
        faults: number of a line -> what is wrong with it.
        records: number of a faulty line -> what it holds; absent where it is no JSON.
    """

    pairs: list[Pair] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    faults: dict[int, list[str]] = field(default_factory=dict)
    records: dict[int, Any] = field(default_factory=dict)

    def repeated(self) -> dict[str, list[int]]:
        """Segment -> its lines, for names that stand more than once."""
        where: dict[str, list[int]] = {}
        for line, pair in zip(self.lines, self.pairs, strict=True):
            where.setdefault(pair.segment, []).append(line)
        return {name: at for name, at in where.items() if len(at) > 1}


def scan_pairs(path: str | Path) -> Scanned:
    """Every line of a pairs file, faulty or not; nothing is said of the files that they name.

    Raises:
        Ego2ExoError: it cannot be read, or is not UTF-8.
    """
    folder, found = os.path.dirname(os.path.abspath(path)), Scanned()
    for number, line in enumerate(read_raw_lines(path, "a pairs.jsonl"), 1):
        line = line.removeprefix(BOM_UTF8) if number == 1 else line
        if not line.strip():
            continue
        try:
            record = parse_json(line.decode())
        except ValueError as error:
            found.faults[number] = [f"is no JSON: {json_reason(error)}"]
            continue
        wrong = record_faults(record)
        if wrong:
            found.faults[number], found.records[number] = wrong, record
        else:
            found.pairs.append(pair_from_record(record, folder))
            found.lines.append(number)
    return found


__all__ = ["Pair", "pair_from_record", "read_pairs", "require_files", "write_pairs"]

_CLEAN = "mend the paths; `llava-ego2exo pairs check --write-clean` writes a pairs file without what is missing"


def read_pairs(path: str | Path) -> list[Pair]:
    """The pairs of a `pairs.jsonl`, in its order. Whether files are there is not looked at; `require_files` does that.

    Args:
        path: of the file.

    Raises:
        Ego2ExoError: the file is missing, empty or faulty; names the first faulty lines and counts the rest.
    """
    found = scan_pairs(path)
    faults = [f"line {number} {fault}" for number, wrong in found.faults.items() for fault in wrong]
    faults += [f"segment {name!r} stands in lines {', '.join(map(str, at))}" for name, at in found.repeated().items()]
    if faults:
        raise Ego2ExoError(
            f"{path}: {len(faults)} fault(s): {shorten_list(faults)}",
            f"one such object a line: {EXAMPLE}",
            "mend these lines",
        )
    if not found.pairs:
        raise Ego2ExoError(f"{path} holds no pair", "one pair a line", "make it with `llava-ego2exo pairs build`")
    return found.pairs


def write_pairs(path: str | Path, pairs: Iterable[Pair]) -> Path:
    """Write a `pairs.jsonl`: beside its place first, then renamed, so that a half-written file never stands there.

    Raises:
        Ego2ExoError: there is no pair, a segment's name stands twice, or the file cannot be written.
    """
    pairs, path = list(pairs), Path(os.path.abspath(path))
    twice = repeated(pair.segment for pair in pairs)
    if twice or not pairs:
        given = f"{path}: segment(s) named twice: {shorten_list(twice)}" if twice else f"{path}: no pair to write"
        raise Ego2ExoError(given, "one or more pairs, each segment once", "give each segment a name of its own")
    return write_atomic(path, "".join(f"{_line(pair, path.parent)}\n" for pair in pairs))


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
            f"{len(faults)} video(s) of the pairs are not there: {shorten_list(faults)}",
            "existing files",
            remedy,
        )


def _line(pair: Pair, folder: Path) -> str:
    values = asdict(pair)
    values["ego"] = _relative(pair.ego, folder)
    values["exo"] = {view: _relative(path, folder) for view, path in pair.exo.items()}
    return json.dumps({name: values[name] for name in FIELDS}, ensure_ascii=False)


def _relative(path: str, folder: Path) -> str:
    file = Path(path)
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else file.as_posix()
