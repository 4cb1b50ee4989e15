"""The pairs file: one pair a line."""

from __future__ import annotations

import json
import os
from codecs import BOM_UTF8
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ...common.files import write_atomic
from ...common.json_io import parse_json, read_raw_lines
from ...common.text import repeated, shorten_list
from ...errors import Ego2ExoError
from .pair import EXAMPLE, FIELDS, Pair, pair_from_record, record_faults


@dataclass
class PairLines:
    """The lines of a pairs file: pairs with the numbers of their lines, from 1, and line -> what is wrong with it."""

    pairs: list[Pair] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    faults: dict[int, list[str]] = field(default_factory=dict)


def scan_pairs(path: str | Path) -> PairLines:
    """Every line of a pairs file, faulty or not; whether the videos exist is not checked.

    Raises:
        Ego2ExoError: it cannot be read, or holds no line.
    """
    folder, found = os.path.dirname(os.path.abspath(path)), PairLines()
    for number, line in enumerate(read_raw_lines(path, "a pairs.jsonl"), 1):
        line = line.removeprefix(BOM_UTF8) if number == 1 else line
        if not line.strip():
            continue
        try:
            record = parse_json(line.decode())
        except ValueError as error:
            found.faults[number] = [f"is no JSON: {error}"]
            continue
        faults = record_faults(record)
        if faults:
            found.faults[number] = faults
        else:
            found.pairs.append(pair_from_record(record, folder))
            found.numbers.append(number)
    if not found.pairs and not found.faults:
        raise Ego2ExoError(f"{path} holds no pair", "one pair a line", "make it with `llava-ego2exo pairs build`")
    return found


def read_pairs(path: str | Path) -> list[Pair]:
    """The pairs of a `pairs.jsonl`, in its order; :func:`require_files` checks that their videos exist.

    Raises:
        Ego2ExoError: it is missing, empty or faulty; names the first faulty lines and counts the rest.
    """
    found = scan_pairs(path)
    faults = [f"line {number} {fault}" for number, faults in found.faults.items() for fault in faults]
    for name in repeated(pair.segment for pair in found.pairs):
        lines = [str(number) for number, pair in zip(found.numbers, found.pairs, strict=True) if pair.segment == name]
        faults.append(f"segment {name!r} is in lines {', '.join(lines)}")
    if faults:
        given = f"{path}: {len(faults)} fault(s): {shorten_list(faults)}"
        raise Ego2ExoError(given, f"one such object a line: {EXAMPLE}", "fix these lines")
    return found.pairs


def write_pairs(path: str | Path, pairs: Iterable[Pair]) -> Path:
    """Write a `pairs.jsonl`, atomically; paths below its folder become relative.

    Raises:
        Ego2ExoError: there is no pair, segments repeat, or the file cannot be written.
    """
    pairs, path = list(pairs), Path(os.path.abspath(path))
    twice = repeated(pair.segment for pair in pairs)
    if twice or not pairs:
        given = f"{path}: repeated segment(s): {shorten_list(twice)}" if twice else f"{path}: no pair to write"
        raise Ego2ExoError(given, "one or more pairs, each segment once", "give each segment a name of its own")
    return write_atomic(path, "".join(f"{_line(pair, path.parent)}\n" for pair in pairs))


def _line(pair: Pair, folder: Path) -> str:
    def relative(path: str) -> str:
        file = Path(path)
        return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else file.as_posix()

    values = asdict(pair) | {"ego": relative(pair.ego), "exo": {view: relative(p) for view, p in pair.exo.items()}}
    return json.dumps({name: values[name] for name in FIELDS}, ensure_ascii=False)


def require_files(pairs: Sequence[Pair], remedy: str = "") -> None:
    """Refuse pairs whose videos do not exist.

    Raises:
        Ego2ExoError: names the first missing files and counts the rest.
    """
    missing = [
        f"{pair.segment} {view}: {path}"
        for pair in pairs
        for view, path in pair.files.items()
        if not os.path.isfile(path)
    ]
    if missing:
        raise Ego2ExoError(
            f"{len(missing)} video(s) of the pairs are not there: {shorten_list(missing)}",
            "existing files",
            remedy or "fix the paths, or drop what is missing with `llava-ego2exo pairs check --write-clean`",
        )
