"""The questions that a report shows: a fixed sample, each with frames of its clip and the answers of each model."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import NamedTuple

from ...common.pages import picture_uri
from ...common.processes import map_threads
from ...errors import Ego2ExoError
from ...video import read_video
from ..items import FAILED, PARSED, Described, Item, Outcome
from ..stats.descriptions import row_id

FRAMES, SIDE, QUALITY = 6, 176, 72  # of a clip; pixels; JPEG quality
MAX_CARDS = 96  # keeps the page below 5 MB
RIGHT, WRONG, DIFFERS = "right", "wrong", "differs"
# (model, mode); mode is "" for descriptions.
Column = tuple[str, str]


class CardClip(NamedTuple):
    """The video of a card, or a part of it from `start_s` to `end_s` seconds; None: the video's own start or end."""

    path: str  # "" where it was not found
    start_s: float | None
    end_s: float | None


class Filmstrip(NamedTuple):
    """Frames of a clip as (data URI, seconds after the clip's beginning), or the error why there are none."""

    frames: tuple[tuple[str, float], ...] = ()
    error: str = ""


@dataclass(frozen=True)
class Card:
    """One question, or one row of descriptions."""

    name: str  # id of the item, or of the row
    item: Item  # of a row the first
    clip: CardClip
    # (number of the model and mode among those of the report, result, what came of it)
    answers: list[tuple[int, str, Outcome | Described]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)  # "ASKER:RESULT", as the page's filter compares them


def asked_columns(outcomes: Iterable[Outcome], described: Iterable[Described]) -> list[Column]:
    """Models and modes in order of appearance."""
    return list(dict.fromkeys([(one.model, one.mode) for one in outcomes] + [(one.model, "") for one in described]))


def sampled_cards(
    outcomes: Sequence[Outcome], described: Sequence[Described], base: str | None, samples: int
) -> tuple[list[Card], dict[CardClip, Filmstrip], int]:
    """Cards, in the order of the data; frames of their clips; how many cards more than `MAX_CARDS` there would be.

    Args:
        outcomes: of multiple-choice items.
        described: rows of descriptions.
        base: the model that others are compared with.
        samples: most questions of each model, mode, view and result; failures are listed elsewhere.
    """
    columns = asked_columns(outcomes, described)
    base_right = {(one.item.id, one.mode): one.right for one in outcomes if one.model == base}
    cards: dict[str, Card] = {}
    groups: dict[tuple[int, str, str], list[str]] = {}
    for one in (*outcomes, *described):
        if isinstance(one, Outcome):
            name, items, asker = one.item.id, (one.item,), columns.index((one.model, one.mode))
            results = [one.state if one.state != PARSED else RIGHT if one.right else WRONG]
            results += [DIFFERS] * (base_right.get((name, one.mode), one.right) != one.right)
        else:
            name, items, asker, results = row_id(one), one.items, columns.index((one.model, "")), [one.state]
        card = cards.setdefault(name, Card(name, items[0], _clip(items)))
        card.answers.append((asker, results[0], one))
        card.words.extend(f"{asker}:{result}" for result in results)
        for result in results if one.state != FAILED else ():
            groups.setdefault((asker, items[0].view, result), []).append(name)
    chosen = _chosen(groups.values(), samples)
    shown = set(chosen[:MAX_CARDS])
    kept = [card for name, card in cards.items() if name in shown]
    for card in kept:
        card.answers.sort(key=lambda answer: answer[0])
    clips = list(dict.fromkeys(card.clip for card in kept))
    workers = min(4, os.cpu_count() or 1)
    strips = map_threads(filmstrip, clips, workers, "frames for the report", "clip", progress=False)
    return kept, dict(zip(clips, strips, strict=True)), len(chosen) - len(kept)


def _chosen(groups: Iterable[Sequence[str]], samples: int) -> list[str]:
    """The first of each group, then the second of each, and so on, by hash of the name: chance that repeats."""
    ranked = [
        sorted(group, key=lambda name: hashlib.sha256(name.encode(errors="replace")).hexdigest())[:samples]
        for group in groups
    ]
    return list(dict.fromkeys(name for rank in zip_longest(*ranked) for name in rank if name is not None))


def filmstrip(clip: CardClip) -> Filmstrip:
    """Evenly spaced frames, the first and the last among them."""
    if not clip.path:
        return Filmstrip(error="the video was not found")
    try:
        read = read_video(clip.path, 1, FRAMES, True, clip.start_s, clip.end_s)
    except Ego2ExoError as error:
        return Filmstrip(error=error.given)
    # A clip of fewer frames gives some of them twice.
    frames = dict(zip(read.times, read.frames, strict=True))
    return Filmstrip(tuple((picture_uri(frame, SIDE, QUALITY), time) for time, frame in frames.items()))


def _clip(items: Sequence[Item]) -> CardClip:
    """From the first item's beginning to the last one's end."""
    starts, ends = [item.start_s for item in items], [item.end_s for item in items]
    start = None if None in starts else min(starts)
    return CardClip(items[0].path, start, None if None in ends else max(ends))
