"""The functions that the rendered tasks name: from a row to clip and prompt, from a reply to numbers."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from ..errors import Ego2ExoError
from ..evaluation.answers import parse_answer
from ..evaluation.items import CHOICE
from ..evaluation.prompts import prompt_of
from .rows import item_of

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
    """The prompt, word for word that of `llava-ego2exo eval`.

    Args:
        doc: the row.
        lmms_eval_specific_kwargs: not used; lmms-eval passes it.

    Raises:
        SystemExit: replies could not be read later, as a package is missing.
    """
    item = item_of(doc)
    if item.kind == CHOICE:
        _require_parser()
    return prompt_of(item)


def choice_results(doc: Row, results: Sequence[str]) -> dict[str, Any]:
    """A reply's values under every metric of its task; None under those of other categories.

    Args:
        doc: the row.
        results: the reply.
    """
    picked = parse_answer(results[0], item_of(doc).choices)
    seen = {"id": doc["id"], "category": doc["category"], "video": doc["video"], "picked": picked}
    right = {"score": float(picked == doc["answer"]), **seen}
    return {
        "acc": right,
        "unparsed_rate": {"score": float(picked is None), **seen},
        **{f"acc_{group}": right if group == doc["group"] else None for group in doc["groups"]},
    }


def description_results(doc: Row, results: Sequence[str]) -> dict[str, Any]:
    """A description's values under every metric of its task; None under those of other questions.

    Args:
        doc: the row.
        results: the reply.
    """
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
    """Why a video cannot be shown, in words; empty where it can."""
    from ..video import read_video

    try:
        read_video(path, 1, 2, True)
    except Ego2ExoError as error:
        return str(error)
    return ""
