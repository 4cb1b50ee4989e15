"""The data rows of lmms-eval's tasks, and the functions that the tasks name: row to prompt, reply to scores."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from ..errors import Ego2ExoError
from ..evaluation.items import CHOICE, DESCRIPTION, Item
from ..evaluation.plan import prompt_of
from ..evaluation.replies.parser import parse_answer

# What a task's metrics are called; the first is also given by category where there are several.
METRICS = {CHOICE: ("acc", "unparsed_rate"), DESCRIPTION: ("rouge_l", "empty_rate", "words")}
_FIELDS = ("id", "benchmark", "category", "view", "question", "kind", "answer", "row", "part", "source")


def rows_of(items: Sequence[Item]) -> list[dict[str, Any]]:
    """One row an item, all with the same keys and types, so that Arrow fits them into one table.

    Choices are two lists: Arrow would make one struct of all the keys that occur anywhere.
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
    """The category; of a description, which question it is."""
    return item.category if item.kind == CHOICE else item.part


Row = Mapping[str, Any]


def doc_to_visual(doc: Row) -> list[str]:
    """The path of the clip.

    A wrapper that cannot read a clip asks without it, and lmms-eval swallows exceptions and ends with exit code 0. So a
    clip whose first or last frame does not decode ends the process here.

    Raises:
        SystemExit: it does not decode.
    """
    fault = _fault(doc["video"])
    if fault:
        sys.exit(f"lmms_eval: error: {doc['id']}: {fault}")
    return [doc["video"]]


def doc_to_text(doc: Row, lmms_eval_specific_kwargs: Mapping[str, Any] | None = None) -> str:
    """The prompt, word for word that of `llava-ego2exo eval`; lmms-eval passes the second argument.

    Raises:
        SystemExit: replies could not be read later, as a package is missing.
    """
    item = item_of(doc)
    if item.kind == CHOICE:
        _require_parser()
    return prompt_of(item)


def choice_results(doc: Row, results: Sequence[str]) -> dict[str, Any]:
    """A reply's values under every metric of its task; None under those of other categories."""
    item = item_of(doc)
    picked = parse_answer(results[0], item.choices)
    seen = {"id": doc["id"], "category": doc["category"], "video": doc["video"], "picked": picked}
    right = {"score": float(picked in item.right_keys), **seen}
    return {
        "acc": right,
        "unparsed_rate": {"score": float(picked is None), **seen},
        **{f"acc_{group}": right if group == doc["group"] else None for group in doc["groups"]},
    }


def description_results(doc: Row, results: Sequence[str]) -> dict[str, Any]:
    """A description's values under every metric of its task; None under those of other questions."""
    reply, seen = results[0], {"id": doc["id"], "part": doc["part"], "video": doc["video"]}
    overlap = {"score": rouge_l(reply, doc["answer"]), **seen}
    return {
        "rouge_l": overlap,
        "empty_rate": {"score": float(not reply.strip()), **seen},
        "words": {"score": float(len(reply.split())), **seen},
        **{f"rouge_l_{group}": overlap if group == doc["group"] else None for group in doc["groups"]},
    }


def mean(values: Sequence[Mapping[str, Any] | None]) -> float:
    """The mean of those rows that count; not a number where none does, as 0 would be a result."""
    scores = [value["score"] for value in values if value is not None]
    return sum(scores) / len(scores) if scores else float("nan")


def rouge_l(reply: str, reference: str) -> float:
    """ROUGE-L from 0 to 1 by pycocoevalcap, which lmms-eval installs; in small letters, words as blanks part them."""
    from pycocoevalcap.rouge.rouge import Rouge

    texts = [" ".join(text.lower().split()) for text in (reply, reference)]
    return float(Rouge().calc_score(texts[:1], texts[1:])) if all(texts) else 0.0


@lru_cache(maxsize=1)
def _require_parser() -> None:
    """Prompts are made before anything is asked: the time to find that replies cannot be read."""
    try:
        parse_answer("walking to the door", {"A": "walk", "B": "sit"})
    except Ego2ExoError as error:
        sys.exit(f"lmms_eval: error: {error}")


@lru_cache(maxsize=100_000)
def _fault(path: str) -> str:
    """Why a video cannot be decoded; empty where it can."""
    from ..video import read_video

    try:
        read_video(path, 1, 2, True)
    except Ego2ExoError as error:
        return str(error)
    return ""
