"""The lines of a pairs file, faulty or not."""

from __future__ import annotations

import os
from codecs import BOM_UTF8
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..common.json_io import json_reason, parse_json, read_raw_lines
from .pair import Pair, pair_from_record
from .record import record_faults


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
