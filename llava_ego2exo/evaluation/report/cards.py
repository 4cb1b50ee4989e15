"""The questions that a report shows: a fixed sample, each with frames of its clip and the answers of each model."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from ...common.pages import picture_uri
from ...common.processes import map_threads
from ...errors import Ego2ExoError
from ...video import read_video
from ..items import FAILED, PARSED, Described, Item, Outcome
from ..stats.descriptions import row_id

FRAMES, SIDE, QUALITY = 6, 176, 72  # of a clip; pixels; JPEG quality
LONGEST, LONGEST_QUESTION, LONGEST_OPTION = 600, 1500, 300  # characters
MAX_PARTS = 8  # replies shown of a row that is asked in parts
MAX_CARDS = 96
BUDGET = 3_500_000  # bytes of cards and their frames
RIGHT, WRONG, DIFFERS = "right", "wrong", "differs"
# (model, mode); mode is "" for descriptions.
Column = tuple[str, str]


@dataclass(frozen=True)
class CardClip:
    """The video of a card, or a part of it from `start_s` to `end_s` seconds; None: the video's own start or end."""

    path: str  # "" where it was not found
    video: str = field(compare=False)  # as the data names it
    start_s: float | None
    end_s: float | None


@dataclass(frozen=True)
class Filmstrip:
    """Frames of a clip as (data URI, seconds after the clip's beginning), or the error why there are none."""

    frames: tuple[tuple[str, float], ...] = ()
    error: str = ""


@dataclass(frozen=True)
class Excerpt:
    """The beginning of a text, and how many characters follow."""

    shown: str = ""
    left: int = 0


@dataclass(frozen=True)
class CardAnswer:
    """What came of a question with one model in one mode."""

    asker: int  # number of the model and mode among those of the report
    result: str  # "right", "wrong", "unparsed", "failed"; of a description "judged", "unjudged", "failed"
    replies: tuple[tuple[Excerpt, Excerpt], ...] = ()  # (question, where there are several; reply)
    more: int = 0  # further replies
    read: tuple[str, Excerpt] | None = None  # key and text of the option that was read from the reply
    notes: tuple[str, ...] = ()
    scores: tuple[tuple[str, float], ...] = ()  # (option's key, log-probability), the most likely first
    summary: Excerpt = Excerpt()  # judged in place of the replies
    marks: tuple[tuple[str, float | None], ...] = ()  # (aspect, 0 to 5); None: missing


@dataclass(frozen=True)
class Card:
    """One question, or one row of descriptions."""

    name: str  # id of the item, or of the row
    clip: CardClip
    category: str
    view: str
    question: Excerpt
    options: tuple[tuple[str, Excerpt, bool], ...]  # (key, text, whether it is the right one)
    reference: Excerpt  # of a description
    answers: tuple[CardAnswer, ...]
    words: tuple[str, ...]  # "ASKER:RESULT", as the page's filter compares them


def asked_columns(outcomes: Iterable[Outcome], described: Iterable[Described]) -> list[Column]:
    """Models and modes in order of appearance."""
    return list(dict.fromkeys([(one.model, one.mode) for one in outcomes] + [(one.model, "") for one in described]))


def sampled_cards(
    outcomes: Sequence[Outcome], described: Sequence[Described], base: str | None, samples: int
) -> tuple[list[Card], dict[CardClip, Filmstrip], int]:
    """Cards, in the order of the data, and the frames of their clips.

    Args:
        outcomes: of multiple-choice items.
        described: rows of descriptions.
        base: the model that others are compared with.
        samples: most questions of each model, mode, view and result.

    Returns:
        Cards; frames of each clip; how many chosen questions were left out to keep the page small.
    """
    columns = asked_columns(outcomes, described)
    items: dict[str, list[Outcome]] = {}
    rows: dict[str, list[Described]] = {}
    # Of each model, mode, view and result the names; failures are listed elsewhere.
    choice_groups: dict[tuple[str, ...], list[str]] = {}
    row_groups: dict[tuple[str, ...], list[str]] = {}
    for one in outcomes:
        items.setdefault(one.item.id, []).append(one)
    for row in described:
        rows.setdefault(row_id(row), []).append(row)
        row_groups.setdefault((row.model, row.items[0].view, row.state), []).append(row_id(row))
    for name, own in items.items():
        results = [(one, _result(one)) for one in own if one.state != FAILED]
        for one, result in [*results, *((one, DIFFERS) for one in _differing(own, base))]:
            choice_groups.setdefault((one.model, one.mode, one.item.view, result), []).append(name)
    cards = [_choice_card(items[name], columns, base) for name in _chosen(choice_groups.values(), samples)]
    cards += [_described_card(rows[name], columns, name) for name in _chosen(row_groups.values(), samples)]
    order = {name: place for place, name in enumerate([*items, *rows])}
    kept, frames = _within_budget(cards[:MAX_CARDS])
    return sorted(kept, key=lambda card: order[card.name]), frames, len(cards) - len(kept)


def _chosen(groups: Iterable[Sequence[str]], samples: int) -> list[str]:
    """The first of each group, then the second of each, and so on, by hash of the name: chance that repeats."""
    ranked = [
        sorted(group, key=lambda name: hashlib.sha256(name.encode(errors="replace")).hexdigest())[:samples]
        for group in groups
    ]
    return list(dict.fromkeys(name for rank in zip_longest(*ranked) for name in rank if name is not None))


def _within_budget(cards: Sequence[Card]) -> tuple[list[Card], dict[CardClip, Filmstrip]]:
    """As many of the first cards as the page has room for; frames are read only for these."""
    kept: list[Card] = []
    found: dict[CardClip, Filmstrip] = {}
    used = 0
    for start in range(0, len(cards), 8):
        block = cards[start : start + 8]
        clips = list(dict.fromkeys(card.clip for card in block if card.clip not in found))
        strips = map_threads(
            filmstrip, clips, min(4, os.cpu_count() or 1), "frames for the report", "clip", progress=False
        )
        found.update(zip(clips, strips, strict=True))
        for card in block:
            used += _size(card) + sum(len(uri) for uri, _ in found[card.clip].frames)
            if used > BUDGET:
                return kept, found
            kept.append(card)
    return kept, found


def _size(card: Card) -> int:
    """Roughly the bytes of a card's text on the page."""
    texts = [card.question, card.reference, *(text for _, text, _ in card.options)]
    for answer in card.answers:
        texts += [answer.summary, *(text for pair in answer.replies for text in pair)]
    return 1000 * (1 + len(card.answers)) + sum(len(text.shown.encode(errors="replace")) for text in texts)


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
    end = None if None in ends else max(ends)
    return CardClip(items[0].path, items[0].video, start, end)


def _excerpt(text: str, longest: int = LONGEST) -> Excerpt:
    return Excerpt(text[:longest], max(len(text) - longest, 0))


def _result(outcome: Outcome) -> str:
    return outcome.state if outcome.state != PARSED else RIGHT if outcome.right else WRONG


def _differing(outcomes: Sequence[Outcome], base: str | None) -> list[Outcome]:
    """Those of one item that are right where the base is not in the same mode, or the reverse."""
    theirs = {one.mode: one.right for one in outcomes if one.model == base}
    return [one for one in outcomes if one.mode in theirs and theirs[one.mode] != one.right]


def _choice_card(outcomes: Sequence[Outcome], columns: Sequence[Column], base: str | None) -> Card:
    item = outcomes[0].item
    answers = [_choice_answer(one, columns.index((one.model, one.mode))) for one in outcomes]
    words = [f"{answer.asker}:{answer.result}" for answer in answers]
    words += [f"{columns.index((one.model, one.mode))}:{DIFFERS}" for one in _differing(outcomes, base)]
    return Card(
        item.id, _clip([item]), item.category, item.view, _excerpt(item.question, LONGEST_QUESTION),
        tuple((key, _excerpt(text, LONGEST_OPTION), key == item.answer) for key, text in item.choices.items()),
        Excerpt(), tuple(sorted(answers, key=lambda answer: answer.asker)), tuple(words),
    )  # fmt: skip


def _choice_answer(outcome: Outcome, asker: int) -> CardAnswer:
    notes = [{"cut": "it reached the length limit", "empty": "it is empty"}.get(flag, flag) for flag in outcome.flags]
    notes += ["read by the judge"] if outcome.judged else []
    notes += [f"failed: {_excerpt(outcome.error or 'no cause is known').shown}"] if outcome.state == FAILED else []
    picked = outcome.picked
    return CardAnswer(
        asker, _result(outcome), ((Excerpt(), _excerpt(outcome.reply)),) if outcome.reply else (),
        read=None if picked is None else (picked, _excerpt(outcome.item.choices[picked], LONGEST_OPTION)),
        notes=tuple(notes), scores=tuple(sorted(outcome.scores.items(), key=lambda pair: -pair[1])),
    )  # fmt: skip


def _described_card(rows: Sequence[Described], columns: Sequence[Column], name: str) -> Card:
    first = rows[0].items[0]
    answers = [_described_answer(one, columns.index((one.model, ""))) for one in rows]
    return Card(
        name, _clip(rows[0].items), first.category, first.view, _excerpt(first.question, LONGEST_QUESTION), (),
        _excerpt(first.answer), tuple(sorted(answers, key=lambda answer: answer.asker)),
        tuple(f"{answer.asker}:{answer.result}" for answer in answers),
    )  # fmt: skip


def _described_answer(row: Described, asker: int) -> CardAnswer:
    several = len(row.items) > 1
    replies = [
        (_excerpt(item.question, LONGEST_OPTION) if several else Excerpt(), _excerpt(reply))
        for item, reply in zip(row.items, row.replies, strict=True)
    ]
    return CardAnswer(
        asker, row.state, tuple(replies[:MAX_PARTS]), max(len(replies) - MAX_PARTS, 0),
        notes=(_excerpt(row.error).shown,) if row.error else (), summary=_excerpt(row.summary),
        marks=tuple(row.marks.items()),
    )  # fmt: skip
