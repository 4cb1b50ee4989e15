"""All rows of a file by the reader that fits; the good ones as questions, the others by what is wrong with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...common.json_io import read_json
from .fields import Fields, kind_of, short
from .layout import Layout, Question, recognise


@dataclass(frozen=True)
class Row:
    """A row without fault.

    Args:
        index: its place in the file, from 0.
        name: for messages: "row 12", or the row's key.
        questions: what it asks.
    """

    index: int
    name: str
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class Rows:
    """What a file holds.

    Args:
        layout: that fits.
        good: rows without fault.
        bad: row's place -> its name and all that is wrong with it.
        unread: key that is not read -> number of rows that have it.
    """

    layout: Layout
    good: list[Row]
    bad: dict[int, str]
    unread: dict[str, int]


def read_rows(path: Path, layouts: Sequence[Layout]) -> Rows:
    """Read a file.

    Args:
        path: of the file.
        layouts: those allowed.

    Raises:
        Ego2ExoError: the file cannot be read, or fits no layout.
    """
    value = read_json(path, "a benchmark's JSON file")
    layout = recognise(path, value, layouts)
    good: list[Row] = []
    bad: dict[int, str] = {}
    unread: Counter[str] = Counter()
    seen: dict[Hashable, str] = {}
    for index, (name, row) in enumerate(layout.rows(value)):
        fields = Fields(row)
        questions = tuple(layout.read(fields))
        _note_id(fields, name, seen)
        if not fields.faults:
            _note_content(fields, questions, name, seen)
        unread.update(fields.unread())
        if fields.faults:
            bad[index] = f"{name[:80]}: {', '.join(fields.faults)}"
        else:
            good.append(Row(index, name, questions))
    return Rows(layout, good, bad, dict(unread))


def _note_id(fields: Fields, name: str, seen: dict[Hashable, str]) -> None:
    """Refuse a second row with one `id`, in any layout that has it."""
    value: Any = fields.value("id", optional=True)
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        fields.fault(f"id is {kind_of(value)}, not a text or a whole number")
        return
    first = seen.setdefault(("id", value), name)
    if first != name:
        fields.fault(f"id {short(value)} is that of {first} too")


def _note_content(fields: Fields, questions: tuple[Question, ...], name: str, seen: dict[Hashable, str]) -> None:
    """Refuse a second row that asks the same of the same clip."""
    content = tuple((q.video, q.start_s, q.end_s, q.question, tuple(sorted(q.choices.items()))) for q in questions)
    first = seen.setdefault(content, name)
    if first != name:
        fields.fault(f"asks the same of {short(questions[0].video)} as {first}")
