"""Pairs from a table of the user's own: CSV, TSV, JSON or JSONL."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...common.json_io import read_json, read_json_lines, read_text
from ...common.text import repeated, shorten_list
from ...errors import Ego2ExoError
from .pair import EXAMPLE, FIELDS, Pair, pair_from_record, record_faults

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl")
COLUMNS = "segment, take, ego, exo or exo1, exo2, ... or exo:<name>, start_s, end_s, offset_s, split"
_NUMBERS = ("start_s", "end_s", "offset_s")


def read_manifest(
    path: str | Path, folder: str | Path | None = None, unpaired: list[str] | None = None
) -> tuple[list[Pair], bool]:
    """The pairs of a manifest, and whether it says their splits.

    Args:
        path: the file; its suffix tells the format. CSV: a header and a row a pair, empty cells are left out.
            JSON: a list of objects; JSONL: an object a line. `exo` may be one path or an object of view: path.
        folder: where relative paths count from; None: the manifest's folder.
        unpaired: gets a line for each row without its ego or without any exo, which is left out; None: such a row is a
            fault.

    Raises:
        Ego2ExoError: names all unknown columns, or the first faulty rows and how many more there are.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise Ego2ExoError(f"--manifest {path} has the suffix {path.suffix!r}", ", ".join(SUFFIXES), "rename it")
    rows = list(_read(path))
    if not rows:
        raise Ego2ExoError(f"{path} holds no row", f"one pair a row, with the columns {COLUMNS}")
    _refuse_unknown(path, [row for _, row in rows])
    base = Path(folder) if folder is not None else path.absolute().parent
    faults, pairs = [], []
    for where, row in rows:
        record, wrong = _record(row)
        lacking = _lacking(record) if unpaired is not None else ""
        if unpaired is not None and lacking:
            unpaired.append(f"{where}: {record.get('segment', '?')} has no {lacking}")
            continue
        wrong += record_faults(record)
        faults += [f"{where} {fault}" for fault in wrong]
        if not wrong:
            pairs.append(pair_from_record(record, base))
    faults += [f"segment {name!r} stands in several rows" for name in repeated(pair.segment for pair in pairs)]
    if faults:
        raise Ego2ExoError(
            f"{path}: {len(faults)} fault(s): {shorten_list(faults)}", f"the columns {COLUMNS}", "mend these rows"
        )
    return pairs, any("split" in row for _, row in rows)


def _read(path: Path) -> Iterator[tuple[str, Any]]:
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        yield from _read_table(path, read_text(path, "a manifest"))
    elif suffix == ".jsonl":
        yield from ((f"line {number}", row) for number, row in read_json_lines(path, f"lines like {EXAMPLE}"))
    else:
        rows = read_json(path, f"a list of objects like {EXAMPLE}")
        if not isinstance(rows, list):
            raise Ego2ExoError(f"{path} holds no list", f"a list of objects like {EXAMPLE}", "put the pairs in [...]")
        yield from ((f"entry {number}", row) for number, row in enumerate(rows))


def _read_table(path: Path, text: str) -> Iterator[tuple[str, dict[str, str]]]:
    header = text.split("\n", 1)[0]
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ";" if ";" in header and "," not in header else ","
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        names = [name.strip() for name in next(reader, [])]
        twice = repeated(names)
        if twice:
            raise Ego2ExoError(f"{path} has the column(s) {', '.join(map(ascii, twice))} twice", COLUMNS)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(names):
                given = f"{path} line {reader.line_num} has {len(cells)} cells under {len(names)} columns"
                many = f'put cells with a {delimiter!r} in them in "..."'
                few = f"end the row with a {delimiter!r} for each empty cell"
                raise Ego2ExoError(given, "as many cells as columns", many if len(cells) > len(names) else few)
            row = {name: cell.strip() for name, cell in zip(names, cells, strict=True)}
            yield f"line {reader.line_num}", row
    except csv.Error as error:
        raise Ego2ExoError(f"{path} is no CSV: {error}", f"a header of {COLUMNS}, then a row a pair") from error


def _lacking(record: Any) -> str:
    """What a row lacks to be a pair; empty where it lacks neither side, or both and so more than its other side."""
    if not isinstance(record, dict):
        return ""
    missing = [name for name in ("ego", "exo") if name not in record]
    return missing[0] if len(missing) == 1 else ""


def _refuse_unknown(path: Path, rows: list[Any]) -> None:
    names = list(dict.fromkeys(name for row in rows if isinstance(row, dict) for name in row))
    unknown = [name for name in names if name not in FIELDS and not _view(name)]
    if unknown:
        names = ", ".join(ascii(name)[1:-1] or "(no name)" for name in unknown)
        raise Ego2ExoError(f"{path} has {len(unknown)} unknown column(s): {names}", COLUMNS, "rename or remove them")


def _view(column: str) -> str:
    """The view that a column names; empty where it names none."""
    if column.startswith("exo:"):
        return column.removeprefix("exo:")
    return column if re.fullmatch(r"exo[0-9]+", column) else ""


def _record(row: Any) -> tuple[Any, list[str]]:
    """A row in the form of a line of pairs.jsonl, and what is wrong with its numbers and views."""
    if not isinstance(row, dict):
        return row, []
    faults: list[str] = []
    record: dict[str, Any] = {}
    exo: dict[str, Any] = {}
    for column, value in row.items():
        if value in ("", None):
            continue
        if column in _NUMBERS and isinstance(value, str):
            value, fault = _number(column, value)
            faults += fault
        if column == "exo":
            exo.update(value if isinstance(value, dict) else {"exo1": value})
        elif _view(column):
            if _view(column) in exo:
                faults.append(f"names the view {_view(column)} twice")
            exo[_view(column)] = value
        else:
            record[column] = value
    return ({**record, "exo": exo} if exo else record), faults


def _number(column: str, value: str) -> tuple[Any, list[str]]:
    try:
        return float(value), []
    except ValueError:
        return 0.0, [f"{column} {ascii(value)} is no number of seconds"]
