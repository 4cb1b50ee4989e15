"""The scores of descriptions as rows of metrics.json: means of 0 to 5, shown times 20, and what is missing in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

from ..items import FAILED, Described
from ..judge.prompts import ASPECTS
from .intervals import mean_interval

ALL = "all"
MEAN = "mean of aspects"
SCALE = 20


def row_id(one: Described) -> str:
    """What names a described row."""
    return one.items[0].row or one.items[0].id


def description_rows(described: Sequence[Described], base: str | None) -> list[dict[str, Any]]:
    """Flat rows: model x view x category (and "all") x aspect (and their mean, of the rows that have all scores).

    A row that failed counts as 0 and among "failed"; a score that is missing counts among "missing" and in no mean;
    judged + missing + failed = n. "difference" is taken against the base on the rows for which both have a value.
    """
    # Those that any row has a score for, or was to have one; all five where there is none.
    aspects = [name for name in ASPECTS if any(name in one.scores for one in described)] or [*ASPECTS]
    members: dict[tuple[str, str, str | None], list[Described]] = {}
    for one in described:
        for category in (ALL, one.items[0].category):
            members.setdefault((one.items[0].view, category, one.model), []).append(one)
    views, categories, models = (dict.fromkeys(key[place] for key in members) for place in range(3))
    rows = []
    for view, category, model in product(views, categories, models):
        mine, theirs = members.get((view, category, model), []), members.get((view, category, base), [])
        for aspect in (*aspects, MEAN):
            value = _score_reader(aspect, aspects)
            named = {"model": model, "view": view, "category": category, "aspect": aspect}
            rows.append({**named, **_mean(mine, value), **_against(mine, theirs, value, base)})
    return rows


def _score_reader(aspect: str, aspects: Sequence[str]) -> Callable[[Described], float | None]:
    """What gives a row's score of one aspect, or of their mean: 0 for a failed row, None for a missing score."""

    def value(one: Described) -> float | None:
        scores = [one.scores.get(name) for name in (aspects if aspect == MEAN else [aspect])]
        if one.state == FAILED:
            return 0.0
        known = [score for score in scores if score is not None]
        return math.fsum(known) / len(known) if len(known) == len(scores) else None

    return value


def _mean(members: Sequence[Described], value: Callable[[Described], float | None]) -> dict[str, Any]:
    found = [(score, one.items[0].video) for one in members if (score := value(one)) is not None]
    failed = sum(one.state == FAILED for one in members)
    scores, videos = [pair[0] for pair in found], [pair[1] for pair in found]
    return {
        "n": len(members),
        "videos": len(set(videos)),
        "judged": len(found) - failed,
        "missing": len(members) - len(found),
        "failed": failed,
        "mean": SCALE * math.fsum(scores) / len(scores) if scores else None,
        "interval": _scaled_interval(scores, videos, (0, 5)),
    }


def _against(
    mine: Sequence[Described],
    theirs: Sequence[Described],
    value: Callable[[Described], float | None],
    base: str | None,
) -> dict[str, Any]:
    """The paired difference against the base; none for the base itself."""
    if not mine or mine[0].model == base:
        return {"against": None, "difference": None, "difference_interval": None, "pairs": 0}
    other = {row_id(one): value(one) for one in theirs}
    gaps, videos = [], []
    for one in mine:
        first, second = value(one), other.get(row_id(one))
        if first is not None and second is not None:
            gaps.append(first - second)
            videos.append(one.items[0].video)
    return {
        "against": base,
        "difference": SCALE * math.fsum(gaps) / len(gaps) if gaps else None,
        "difference_interval": _scaled_interval(gaps, videos, (-5, 5)),
        "pairs": len(gaps),
    }


def _scaled_interval(values: Sequence[float], videos: Sequence[str], bounds: tuple[float, float]) -> list[float] | None:
    interval = mean_interval(values, videos, bounds) if values else None
    return None if interval is None else [SCALE * end for end in interval]
