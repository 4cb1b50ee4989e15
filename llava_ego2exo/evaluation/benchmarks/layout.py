"""What a reader is, and which one a file fits."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...common.json_io import read_json
from ...errors import Ego2ExoError
from ..items import Item
from .fields import Fields, kind_of, short
from .files import base_name, view_file, without_suffix


@dataclass(frozen=True)
class Question:
    """What a row asks, before it belongs to a benchmark and a view.

    Args:
        video: as the data names it.
        question: blanks at its ends removed; empty where the layout has none.
        choices: key -> option text; empty for a description.
        answer: the right key, or the reference text.
        category: finer than the benchmark; empty where the data has none.
        start_s: where the clip begins, in seconds; None: at the video's start.
        end_s: where it ends, in seconds; None: at the video's end.
        part: of a description: what is asked.
        precut: name of the clip as a file of its own, where the data tells it; "" elsewhere.
    """

    video: str
    question: str
    choices: Mapping[str, str] = field(default_factory=dict)
    answer: str = ""
    category: str = ""
    start_s: float | None = None
    end_s: float | None = None
    part: str = ""
    precut: str = ""


def labelled(value: Any) -> list[tuple[str, Any]]:
    """(name for messages, row) of a list or an object of rows."""
    if isinstance(value, dict):
        return [(f"row {ascii(key)}", row) for key, row in value.items()]
    return [(f"row {index}", row) for index, row in enumerate(value)]


@dataclass(frozen=True)
class Layout:
    """One way in which benchmark files are laid out.

    Args:
        name: shown to the user.
        keys: that a row of this layout has, and by which it is recognised.
        read: row -> its questions; what is wrong with the row goes to `Fields.faults`.
        rows: list or object -> (name for messages, row).
        shape: of the file, in words.
    """

    name: str
    keys: tuple[str, ...]
    read: Callable[[Fields], Sequence[Question]]
    rows: Callable[[Any], list[tuple[str, Any]]] = labelled
    shape: str = "rows with the keys"

    def fits(self, row: Any) -> bool:
        """Whether a row has all keys."""
        return isinstance(row, dict) and all(key in row for key in self.keys)

    def __str__(self) -> str:
        return f"{self.name} ({self.shape} {', '.join(self.keys)})"


def recognise(path: Path, value: Any, layouts: Sequence[Layout]) -> Layout:
    """The layout that most rows of a file have; the first of `layouts` where several are level.

    Args:
        path: of the file, for messages.
        value: what it holds.
        layouts: those allowed.

    Raises:
        Ego2ExoError: it holds no rows, or none fits.
    """
    if not isinstance(value, (list, dict)) or not value:
        given = "holds no row" if isinstance(value, (list, dict)) else f"holds {kind_of(value)}"
        raise Ego2ExoError(f"{path} {given}", "a list or an object of rows", "check that this is the benchmark's JSON")
    counts = [sum(layout.fits(row) for _, row in layout.rows(value)) for layout in layouts]
    best = max(range(len(layouts)), key=counts.__getitem__)
    if not counts[best]:
        allowed = "; ".join(map(str, layouts))
        raise Ego2ExoError(
            f"{path} fits no layout of this benchmark: it holds {_found(value)}",
            allowed,
            "check --benchmark and --data",
        )
    return layouts[best]


def _found(value: Any) -> str:
    name, row = labelled(value)[0]
    rows = f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}, and {name[:60]} "
    if isinstance(row, dict):
        return rows + f"has the keys {', '.join(ascii(key)[1:-1][:40] for key in list(row)[:20]) or '(none)'}"
    return rows + f"is {kind_of(row)}"


# All rows of a file by the reader that fits; the good ones as questions, the others by what is wrong with them.


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


# Items of the common type from rows that are right.

_UNREADABLE = re.compile(r"[^\w.+-]+")


@dataclass
class Made:
    """What became of rows.

    Args:
        items: in the rows' order; of a row asked on two views, both stand together.
        bad: row's place -> its name and why it cannot be asked.
        precut: item's id -> name of the clip as a file of its own, where the data tells it.
    """

    items: list[Item] = field(default_factory=list)
    bad: dict[int, str] = field(default_factory=dict)
    precut: dict[str, str] = field(default_factory=dict)


def make_items(benchmark: str, title: str, kind: str, views: Sequence[str], file: str, rows: Iterable[Row]) -> Made:
    """An item for each question and view.

    Args:
        benchmark: its name.
        title: the category where the data has none.
        kind: of the items.
        views: "exo", "ego"; "" for the only camera.
        file: name of the data file.
        rows: that are right.
    """
    made = Made()
    for row in rows:
        video = row.questions[0].video
        files = {view: view_file(video, view) if view else video for view in views}
        if None in files.values():
            reason = "does not end in exoN, so the name of its ego video is not known"
            made.bad[row.index] = f"{row.name}: {short(video)} {reason}"
            continue
        # The place in the file makes it unique, the name readable.
        key = f"{_UNREADABLE.sub('_', without_suffix(base_name(video)))[:80]}:{row.index}"
        common = {"benchmark": benchmark, "kind": kind, "source": f"{file}, {row.name}"}
        for view, path in files.items():
            for question in row.questions:
                item = _item(question, title, view, path or "", f"{view}:{key}" if view else key, common)
                made.items.append(item)
                if question.precut:
                    made.precut[item.id] = question.precut
    return made


def _item(question: Question, title: str, view: str, video: str, row: str, common: dict[str, str]) -> Item:
    return Item(
        id=f"{row}:{question.part}" if question.part else row,
        category=question.category or title,
        view=view,
        video=video,
        question=question.question,
        choices=question.choices,
        answer=question.answer,
        start_s=question.start_s,
        end_s=question.end_s,
        row=row,
        part=question.part,
        **common,
    )
