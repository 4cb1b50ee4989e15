"""The layouts of benchmark files: which one a file has, and how its rows become items."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...common.json_io import read_json
from ...errors import Ego2ExoError
from ..items import Item
from .fields import Fields, kind_of, short
from .files import base_name, view_file, without_suffix

_NOT_IN_IDS = re.compile(r"[^\w.+-]+")


@dataclass(frozen=True)
class RawQuestion:
    """What a row asks, before it belongs to a benchmark and a view; fields as those of `Item`."""

    video: str
    question: str
    choices: Mapping[str, str] = field(default_factory=dict)
    answer: str = ""
    category: str = ""  # finer than the benchmark
    span: tuple[float | None, float | None] = (None, None)  # in seconds; None: at the video's start or end
    part: str = ""
    precut: str = ""  # name of the clip as a file of its own, where the data gives it
    files: Mapping[str, str] = field(default_factory=dict)  # view -> video, where the data names each


def labelled(value: Any) -> list[tuple[str, Any]]:
    """(name for messages, row) of a list or an object of rows."""
    if isinstance(value, dict):
        return [(f"row {ascii(key)}", row) for key, row in value.items()]
    return [(f"row {index}", row) for index, row in enumerate(value)]


@dataclass(frozen=True)
class Layout:
    """One way in which benchmark files are laid out."""

    name: str
    keys: tuple[str, ...]  # that a row of this layout has, and by which it is recognised
    read: Callable[[Fields], Sequence[RawQuestion]]  # what is wrong with the row goes to `Fields.faults`
    rows: Callable[[Any], list[tuple[str, Any]]] = labelled  # list or object -> (name for messages, row)
    shape: str = "rows with the keys"

    def fits(self, row: Any) -> bool:
        """Whether a row has all keys."""
        return isinstance(row, dict) and all(key in row for key in self.keys)

    def __str__(self) -> str:
        return f"{self.name} ({self.shape} {', '.join(self.keys)})"


@dataclass
class BenchmarkData:
    """A benchmark's file, read.

    Args:
        path: of the file.
        layout: name of the one that it has.
        items: of the good rows, in their order; of a row asked on two views, both stand together.
        bad: name of each other row, and all that is wrong with it.
        rows: number of all rows.
        unread: key that is not read -> number of rows that have it.
        precut: item's id -> name of its clip as a file of its own, where the data gives it.
    """

    path: Path
    layout: str
    items: list[Item] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    rows: int = 0
    unread: Counter[str] = field(default_factory=Counter)
    precut: dict[str, str] = field(default_factory=dict)


def parse_file(
    path: Path, layouts: Sequence[Layout], benchmark: str, title: str, kind: str, views: Sequence[str]
) -> BenchmarkData:
    """Read a file; `title` is the category where the data has none, `views` ("",) where there is one camera.

    Raises:
        Ego2ExoError: the file cannot be read, or fits no layout.
    """
    value = read_json(path, "a benchmark's JSON file")
    layout = _recognised(path, value, layouts)
    parsed = BenchmarkData(path, layout.name)
    seen: dict[Hashable, str] = {}
    for index, (name, row) in enumerate(layout.rows(value)):
        fields = Fields(row)
        questions = layout.read(fields)
        _refuse_duplicate(fields, questions, name, seen)
        videos = {} if fields.faults else _videos_by_view(fields, questions[0], views)
        parsed.rows += 1
        parsed.unread.update(fields.unread())
        if fields.faults:
            parsed.bad.append(f"{name[:80]}: {', '.join(fields.faults)}")
            continue
        # The place in the file makes it unique, the name readable.
        place = f"{_NOT_IN_IDS.sub('_', without_suffix(base_name(questions[0].video)))[:80]}:{index}"
        for view, video in videos.items():
            row_id = f"{view}:{place}" if view else place
            for one in questions:
                item = Item(
                    id=f"{row_id}:{one.part}" if one.part else row_id, benchmark=benchmark,
                    category=one.category or title, view=view, video=video, question=one.question, kind=kind,
                    choices=one.choices, answer=one.answer, start_s=one.span[0], end_s=one.span[1], row=row_id,
                    part=one.part, source=f"{path.name}, {name}",
                )  # fmt: skip
                parsed.items.append(item)
                if one.precut:
                    parsed.precut[item.id] = one.precut
    return parsed


def _recognised(path: Path, value: Any, layouts: Sequence[Layout]) -> Layout:
    """The layout that most rows of a file have; the first of `layouts` where several are level."""
    if not isinstance(value, (list, dict)) or not value:
        given = "holds no row" if isinstance(value, (list, dict)) else f"holds {kind_of(value)}"
        raise Ego2ExoError(f"{path} {given}", "a list or an object of rows", "check that this is the benchmark's JSON")
    counts = [sum(layout.fits(row) for _, row in layout.rows(value)) for layout in layouts]
    if not any(counts):
        name, row = labelled(value)[0]
        shown = f"is {kind_of(row)}"
        if isinstance(row, dict):
            shown = f"has the keys {', '.join(ascii(key)[1:-1][:40] for key in list(row)[:20]) or '(none)'}"
        raise Ego2ExoError(
            f"{path} fits no layout of this benchmark: {name[:60]} {shown}",
            "; ".join(map(str, layouts)),
            "check --benchmark and --data",
        )
    return layouts[counts.index(max(counts))]


def _videos_by_view(fields: Fields, asked: RawQuestion, views: Sequence[str]) -> dict[str, str]:
    video = asked.video
    videos = {view: asked.files.get(view) or (view_file(video, view) if view else video) for view in views}
    if None in videos.values():
        fields.fault(f"{short(video)} does not end in exoN, so the name of its ego video is not known")
    return {view: file for view, file in videos.items() if file is not None}


def _refuse_duplicate(fields: Fields, questions: Sequence[RawQuestion], name: str, seen: dict[Hashable, str]) -> None:
    """A second row with one `id`, in any layout that has it, or one that asks the same of the same clip."""
    id_: Any = fields.value("id", optional=True)
    if id_ is not None:
        if isinstance(id_, bool) or not isinstance(id_, (str, int)):
            fields.fault(f"id is {kind_of(id_)}, not a text or a whole number")
        elif seen.setdefault(("id", id_), name) != name:
            fields.fault(f"id {short(id_)} is that of {seen['id', id_]} too")
    if not fields.faults:
        content = tuple((one.video, one.span, one.question, tuple(sorted(one.choices.items()))) for one in questions)
        if seen.setdefault(content, name) != name:
            fields.fault(f"asks the same of {short(questions[0].video)} as {seen[content]}")
