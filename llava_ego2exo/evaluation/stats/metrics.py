"""An evaluation as numbers: what `metrics.json` holds, accuracies and differences in percent and points."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...errors import Ego2ExoError
from ..items import FAILED, MISLABELLED, MODES, PARSED, UNPARSED, Described, Item, Outcome
from .descriptions import ALL, description_rows
from .intervals import LEVEL, difference_interval, share_interval

FORMAT = 1
# (model, mode, view)
Group = tuple[str, str, str]


def compute_metrics(
    outcomes: Sequence[Outcome],
    described: Sequence[Described],
    provenance: Mapping[str, Any],
    compare_to: str | None = None,
) -> dict[str, Any]:
    """Count, compare and say how sure each number is.

    Args:
        outcomes: of multiple-choice items, of one benchmark.
        described: rows of a description benchmark.
        provenance: all that the numbers depend on; "models" is a list of what belongs to one model, with its "name".
        compare_to: the model that differences are taken against; None: the first.

    Returns:
        A dictionary that JSON can hold. "accuracy", "differences", "positions" and "descriptions" are lists of flat
        rows that name their model, mode, view and category; intervals are [low, high], or None where there are fewer
        than two videos. "notes" are sentences on what makes numbers not comparable.

    Raises:
        Ego2ExoError: `compare_to` names no model.
    """
    models = list(dict.fromkeys(one.model for one in (*outcomes, *described)))
    if compare_to is not None and models and compare_to not in models:
        raise Ego2ExoError(f"comparison with {compare_to}", ", ".join(models), "name one of these models")
    base = compare_to or next(iter(models), None)
    items = [*(one.item for one in outcomes), *(one.items[0] for one in described)]
    grouped = _grouped(outcomes)
    categories = list(dict.fromkeys(outcome.item.category for outcome in outcomes))
    return {
        "format": FORMAT,
        "benchmark": items[0].benchmark if items else "",
        "models": models,
        "compare_to": base,
        "level": LEVEL,
        "accuracy": [_accuracy(*part) for part in _parts(grouped, categories)],
        "differences": list(_differences(grouped, categories, base)),
        "positions": [row for group, members in grouped.items() for row in _positions(group, members)],
        "descriptions": description_rows(described, base),
        "notes": [*_notes(grouped), *_twins(outcomes)],
        "provenance": json.loads(json.dumps(provenance, default=str)),
    }


def _grouped(outcomes: Iterable[Outcome]) -> dict[Group, list[Outcome]]:
    """(model, mode, view) -> its outcomes; models and views in order of appearance, "generate" first."""
    found: dict[Group, list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault((outcome.model, outcome.mode, outcome.item.view), []).append(outcome)
    models, views = ({group[place]: None for group in found} for place in (0, 2))
    ordered = [(model, mode, view) for mode in MODES for view in views for model in models]
    return {group: found[group] for group in ordered if group in found}


def _parts(
    grouped: Mapping[Group, Sequence[Outcome]], categories: Sequence[str]
) -> Iterable[tuple[Group, str, list[Outcome]]]:
    for group, members in grouped.items():
        yield group, ALL, list(members)
        for category in categories:
            yield group, category, [outcome for outcome in members if outcome.item.category == category]


def _accuracy(group: Group, category: str, members: Sequence[Outcome]) -> dict[str, Any]:
    states = [outcome.state for outcome in members]
    right = [outcome.right for outcome in members]
    videos = [outcome.item.video for outcome in members]
    chances = [len(outcome.item.right_keys) / len(outcome.item.choices) for outcome in members]
    return {
        **_named(group, category),
        "n": len(members),
        "videos": len(set(videos)),
        "right": sum(right),
        "accuracy": 100 * sum(right) / len(right) if right else None,
        "interval": _percent(share_interval(right, videos)),
        "chance": 100 * sum(chances) / len(chances) if chances else None,
        **{state: states.count(state) for state in (PARSED, UNPARSED, FAILED)},
        "judged": sum(outcome.judged for outcome in members),
        MISLABELLED: sum(MISLABELLED in outcome.flags for outcome in members),
    }


def _differences(
    grouped: Mapping[Group, Sequence[Outcome]], categories: Sequence[str], base: str | None
) -> Iterable[dict[str, Any]]:
    """Rows of every other model against the base, on the items that both were asked in the same mode."""
    for (model, mode, view), category, members in _parts(grouped, categories):
        if model == base or (base, mode, view) not in grouped:
            continue
        theirs = {outcome.item.id: outcome for outcome in grouped[base, mode, view]}
        pairs = [(one.right, theirs[one.item.id].right, one.item) for one in members if one.item.id in theirs]
        yield {**_named((model, mode, view), category), "against": base, **_difference(pairs)}


def _difference(pairs: Sequence[tuple[bool, bool, Item]]) -> dict[str, Any]:
    first, second = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    videos = [pair[2].video for pair in pairs]
    return {
        "n": len(pairs),
        "videos": len(set(videos)),
        "difference": 100 * (sum(first) - sum(second)) / len(pairs) if pairs else None,
        "interval": _percent(difference_interval(first, second, videos)),
        "better": sum(a and not b for a, b in zip(first, second, strict=True)),
        "worse": sum(b and not a for a, b in zip(first, second, strict=True)),
    }


def _positions(group: Group, members: Sequence[Outcome]) -> Iterable[dict[str, Any]]:
    """How often each option is chosen, and how often it is right: a model that prefers a place shows here."""
    parsed = sum(outcome.state == PARSED for outcome in members)
    keys = sorted({key for outcome in members for key in outcome.item.choices}, key=lambda key: (len(key), key))
    for key in keys:
        picked = sum(outcome.picked == key for outcome in members)
        right = sum(outcome.item.answer == key for outcome in members)
        yield {
            **dict(zip(("model", "mode", "view"), group, strict=True)),
            "key": key,
            "picked": picked,
            "picked_share": 100 * picked / parsed if parsed else None,
            "right": right,
            "right_share": 100 * right / len(members),
        }


def _notes(grouped: Mapping[Group, Sequence[Outcome]]) -> Iterable[str]:
    """What makes numbers of a table not comparable."""
    for mode, view in dict.fromkeys(group[1:] for group in grouped):
        asked = {
            model: {outcome.item.id for outcome in members}
            for (model, *rest), members in grouped.items()
            if rest == [mode, view]
        }
        every = set().union(*asked.values())
        short = [f"{model} {len(ids)}" for model, ids in asked.items() if ids != every]
        if short:
            where = " ".join(part for part in (f"mode {mode}", f"view {view}" if view else "") if part)
            yield f"{where}: not every model was asked all {len(every)} items: {', '.join(short)}"


def _twins(outcomes: Sequence[Outcome]) -> Iterable[str]:
    count = len({outcome.item.id for outcome in outcomes if outcome.item.has_twins})
    if count:
        yield f"{count} item(s) have options with the same text; each of these counts as right where one of them is"


def _named(group: Group, category: str) -> dict[str, Any]:
    return {"model": group[0], "mode": group[1], "view": group[2], "category": category}


def _percent(interval: tuple[float, float] | None) -> list[float] | None:
    """An interval of shares, in percent."""
    return None if interval is None else [100 * end for end in interval]
