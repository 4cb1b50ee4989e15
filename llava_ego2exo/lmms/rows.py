"""Items as rows of the data file that lmms-eval reads, and back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..evaluation.items import CHOICE, DESCRIPTION, Item

# What a task's metrics are called; each is also given by category where there are several.
METRICS = {CHOICE: ("acc", "unparsed_rate"), DESCRIPTION: ("rouge_l", "empty_rate", "words")}
_SPLIT = {CHOICE: "acc", DESCRIPTION: "rouge_l"}
_FIELDS = ("id", "benchmark", "category", "view", "question", "kind", "answer", "row", "part", "source")


def rows_of(items: Sequence[Item]) -> list[dict[str, Any]]:
    """One row an item, all with the same keys and types, so that Arrow fits them into one table.

    Choices are two lists: Arrow would make one struct of all the keys that occur anywhere.

    Args:
        items: of one task, with `path` set and no times to cut by.
    """
    slugs = slugs_of(map(_group, items))
    # Every row must give every metric a value, so every row knows them all.
    groups = list(slugs.values()) if len(slugs) > 1 else []
    return [
        {
            **{name: getattr(item, name) for name in _FIELDS},
            "video": item.path,
            "keys": list(item.choices),
            "options": list(item.choices.values()),
            "group": slugs[_group(item)],
            "groups": groups,
        }
        for item in items
    ]


def item_of(row: Mapping[str, Any]) -> Item:
    """The item of a row; its `video` is the file."""
    choices = dict(zip(row["keys"], row["options"], strict=True))
    return Item(**{name: row[name] for name in _FIELDS}, video=row["video"], choices=choices, path=row["video"])


def metrics_of(kind: str, groups: Iterable[str]) -> list[str]:
    """Names of a task's metrics.

    Args:
        kind: of its items.
        groups: of its rows.
    """
    return [*METRICS[kind], *(f"{_SPLIT[kind]}_{group}" for group in groups)]


def slugs_of(names: Iterable[str]) -> dict[str, str]:
    """Name -> what stands for it in the name of a metric; no two alike, in order of first appearance."""
    slugs: dict[str, str] = {}
    for name in names:
        if name not in slugs:
            plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "category"
            slug, number = plain, 2
            while slug in slugs.values():
                slug, number = f"{plain}_{number}", number + 1
            slugs[name] = slug
    return slugs


def _group(item: Item) -> str:
    """What an item is counted under: its category; of a description, what it asks for."""
    return item.category if item.kind == CHOICE else item.part
