"""Pairs from a user's own table: CSV or TSV, a row a pair."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

from ...common.json_io import read_text
from ...common.text import repeated, shorten_list
from ...errors import Ego2ExoError
from .pair import FIELDS, Pair, pair_from_record, record_faults

COLUMNS = "segment, take, ego, exo or exo1, exo2, ... or exo:<name>, start_s, end_s, offset_s, split"


def pairs_of_manifest(
    path: str | Path, folder: str | Path | None = None, unpaired: list[str] | None = None
) -> tuple[list[Pair], bool]:
    """The pairs of a manifest (TSV, or CSV with commas or semicolons), and whether it has a column `split`.

    Relative paths start at `folder`, else at the manifest's own. `unpaired` gets a line for each row without its ego or
    any exo; where it is None such a row is a fault.

    Raises:
        Ego2ExoError: names all unknown columns, or the first faulty rows and counts the rest.
    """
    path = Path(path)
    if path.suffix.lower() not in (".csv", ".tsv"):
        remedy = "write CSV; a file of JSON lines can be a pairs.jsonl itself"
        raise Ego2ExoError(f"--manifest {path} has the suffix {path.suffix!r}", ".csv, .tsv", remedy)
    names, rows = _read(path)
    unknown = [ascii(name)[1:-1] or "(no name)" for name in names if name not in FIELDS and not _view(name)]
    if unknown:
        given = f"{path} has {len(unknown)} unknown column(s): {', '.join(unknown)}"
        raise Ego2ExoError(given, COLUMNS, "rename or remove them")
    if not rows:
        raise Ego2ExoError(f"{path} holds no row", f"one pair a row, with the columns {COLUMNS}")
    base = Path(folder) if folder is not None else path.absolute().parent
    faults, pairs = [], []
    for line, row in rows:
        record, wrong = _record(row)
        lacking = [name for name in ("ego", "exo") if name not in record]
        if unpaired is not None and len(lacking) == 1:
            unpaired.append(f"line {line}: {record.get('segment', '?')} has no {lacking[0]}")
            continue
        wrong += record_faults(record)
        faults += [f"line {line} {fault}" for fault in wrong]
        pairs += [] if wrong else [pair_from_record(record, base)]
    faults += [f"segment {name!r} is in several rows" for name in repeated(pair.segment for pair in pairs)]
    if faults:
        given = f"{path}: {len(faults)} fault(s): {shorten_list(faults)}"
        raise Ego2ExoError(given, f"the columns {COLUMNS}", "fix these rows")
    return pairs, "split" in names


def _read(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Columns, and (line, column -> cell) of each row."""
    text = read_text(path, "a manifest")
    header = text.split("\n", 1)[0]
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ";" if ";" in header and "," not in header else ","
    rows = []
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        names = [name.strip() for name in next(reader, [])]
        for cells in reader:
            if len(cells) != len(names) and any(cell.strip() for cell in cells):
                raise Ego2ExoError(
                    f"{path} line {reader.line_num} has {len(cells)} cells under {len(names)} columns",
                    "as many cells as columns",
                    f'add a {delimiter!r} for each empty cell, and put cells that contain {delimiter!r} in "..."',
                )
            if any(cell.strip() for cell in cells):
                row = {name: cell.strip() for name, cell in zip(names, cells, strict=True)}
                rows.append((reader.line_num, row))
    except csv.Error as error:
        raise Ego2ExoError(f"{path} is no CSV: {error}", f"a header of {COLUMNS}, then a row a pair") from error
    twice = repeated(names)
    if twice:
        raise Ego2ExoError(f"{path} has repeated column(s): {', '.join(map(ascii, twice))}", COLUMNS)
    return names, rows


def _view(column: str) -> str:
    """The view that a column names; empty if none."""
    if column == "exo":
        return "exo1"
    if column.startswith("exo:"):
        return column.removeprefix("exo:")
    return column if re.fullmatch(r"exo[0-9]+", column) else ""


def _record(row: dict[str, str]) -> tuple[dict[str, Any], list[str]]:
    """A row in the form of a line of pairs.jsonl, and its faults in numbers and views."""
    faults: list[str] = []
    record: dict[str, Any] = {}
    for column, value in row.items():
        view = _view(column)
        if not value:
            continue
        if view:
            if view in record.setdefault("exo", {}):
                faults.append(f"names the view {view} twice")
            record["exo"][view] = value
        elif column in ("start_s", "end_s", "offset_s"):
            try:
                record[column] = float(value)
            except ValueError:
                faults.append(f"{column} {ascii(value)} is not a number of seconds")
        else:
            record[column] = value
    return record, faults
