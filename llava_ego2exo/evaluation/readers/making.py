"""Items of the common type from rows that are right."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ..items import Item
from .fields import short
from .layout import Question
from .names import base_name, view_file, without_suffix
from .reading import Row

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
