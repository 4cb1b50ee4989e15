"""Pairs from a user's own table: CSV, TSV, JSON or JSONL."""

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

COLUMNS = "segment, take, ego, exo or exo1, exo2, ... or exo:<name>, start_s, end_s, offset_s, split"
_FORMATS = (".csv", ".tsv", ".json", ".jsonl")


def pairs_of_manifest(
    path: str | Path, folder: str | Path | None = None, unpaired: list[str] | None = None
) -> tuple[list[Pair], bool]:
    """The pairs of a manifest, and whether it has a column `split`.

    Args:
        path: the file; its suffix names the format. CSV: a header and a row a pair, empty cells are skipped.
            JSON: a list of objects; JSONL: an object a line. `exo` may be one path or an object of view: path.
        folder: what relative paths are relative to; None: the manifest's folder.
        unpaired: gets a line for each row without its ego or without any exo, which is skipped; None: such a row is a
            fault.

    Raises:
        Ego2ExoError: names all unknown columns, or the first faulty rows and counts the rest.
    """
    path = Path(path)
    if path.suffix.lower() not in _FORMATS:
        raise Ego2ExoError(f"--manifest {path} has the suffix {path.suffix!r}", ", ".join(_FORMATS), "rename it")
    rows = list(_read(path))
    if not rows:
        raise Ego2ExoError(f"{path} holds no row", f"one pair a row, with the columns {COLUMNS}")
    names = dict.fromkeys(name for _, row in rows if isinstance(row, dict) for name in row)
    unknown = [ascii(name)[1:-1] or "(no name)" for name in names if name not in FIELDS and not _view(name)]
    if unknown:
        given = f"{path} has {len(unknown)} unknown column(s): {', '.join(unknown)}"
        raise Ego2ExoError(given, COLUMNS, "rename or remove them")
    base = Path(folder) if folder is not None else path.absolute().parent
    faults, pairs = [], []
    for where, row in rows:
        record, wrong = _record(row) if isinstance(row, dict) else (row, [])
        lacking = [name for name in ("ego", "exo") if name not in record] if isinstance(record, dict) else []
        if unpaired is not None and len(lacking) == 1:
            unpaired.append(f"{where}: {record.get('segment', '?')} has no {lacking[0]}")
            continue
        wrong += record_faults(record)
        faults += [f"{where} {fault}" for fault in wrong]
        pairs += [] if wrong else [pair_from_record(record, base)]
    faults += [f"segment {name!r} is in several rows" for name in repeated(pair.segment for pair in pairs)]
    if faults:
        given = f"{path}: {len(faults)} fault(s): {shorten_list(faults)}"
        raise Ego2ExoError(given, f"the columns {COLUMNS}", "fix these rows")
    return pairs, any("split" in row for _, row in rows)


def _read(path: Path) -> Iterator[tuple[str, Any]]:
    """(place, row) of each row."""
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
            raise Ego2ExoError(f"{path} has repeated column(s): {', '.join(map(ascii, twice))}", COLUMNS)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(names):
                raise Ego2ExoError(
                    f"{path} line {reader.line_num} has {len(cells)} cells under {len(names)} columns",
                    "as many cells as columns",
                    f'add a {delimiter!r} for each empty cell, and put cells that contain {delimiter!r} in "..."',
                )
            yield f"line {reader.line_num}", {name: cell.strip() for name, cell in zip(names, cells, strict=True)}
    except csv.Error as error:
        raise Ego2ExoError(f"{path} is no CSV: {error}", f"a header of {COLUMNS}, then a row a pair") from error


def _view(column: str) -> str:
    """The view that a column names; empty if none."""
    if column.startswith("exo:"):
        return column.removeprefix("exo:")
    return column if re.fullmatch(r"exo[0-9]+", column) else ""


def _record(row: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A row in the form of a line of pairs.jsonl, and its faults in numbers and views."""
    faults: list[str] = []
    record: dict[str, Any] = {}
    exo: dict[str, Any] = {}
    for column, value in row.items():
        if value in ("", None):
            continue
        if column in ("start_s", "end_s", "offset_s") and isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                faults.append(f"{column} {ascii(value)} is not a number of seconds")
                continue
        if column == "exo":
            exo.update(value if isinstance(value, dict) else {"exo1": value})
        elif view := _view(column):
            if view in exo:
                faults.append(f"names the view {view} twice")
            exo[view] = value
        else:
            record[column] = value
    return ({**record, "exo": exo} if exo else record), faults
