"""What a report shows of one question: the clip, what was asked, and what came of it with each model."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TypeVar

from ...common.processes import run_all
from ...errors import Ego2ExoError
from ...pages.thumbnails import picture_uri
from ...video import read_video
from ..items import FAILED, PARSED, Described, Item, Outcome
from ..stats.rows import row_id

# A few small frames of each clip that a report shows, decoded once however many questions are about it.

FRAMES, SIDE, QUALITY = 6, 176, 72


@dataclass(frozen=True)
class Clip:
    """A video or a part of it.

    Args:
        path: of the file; "" where it was not found.
        video: as the data names it; plays no part in whether two clips are the same.
        start_s: where it begins, in seconds; None: at the start.
        end_s: where it ends; None: at the end.
    """

    path: str
    video: str = field(compare=False)
    start_s: float | None
    end_s: float | None


@dataclass(frozen=True)
class Strip:
    """What is to be seen of a clip.

    Args:
        frames: (data URI, seconds after the clip's beginning).
        error: why there are none; "" otherwise.
    """

    frames: tuple[tuple[str, float], ...] = ()
    error: str = ""

    @property
    def size(self) -> int:
        """Bytes on the page."""
        return sum(len(uri) for uri, _ in self.frames)


def clip_of(items: Iterable[Item]) -> Clip:
    """The clip that these items are about, from the first one's beginning to the last one's end."""
    items = list(items)
    starts, ends = [item.start_s for item in items], [item.end_s for item in items]
    start = None if None in starts else min(starts)
    end = None if None in ends else max(ends)
    return Clip(items[0].path, items[0].video, start, end)


def strips(clips: Iterable[Clip]) -> dict[Clip, Strip]:
    """The frames of each different clip; one that cannot be read says why."""
    each = list(dict.fromkeys(clips))
    workers = min(4, os.cpu_count() or 1)
    return dict(zip(each, run_all(strip, each, workers, "frames for the report", "clip", progress=False), strict=True))


def strip(clip: Clip) -> Strip:
    """Evenly spaced frames, the first and the last among them."""
    if not clip.path:
        return Strip(error="the video was not found")
    try:
        read = read_video(clip.path, 1, FRAMES, True, clip.start_s, clip.end_s)
    except Ego2ExoError as error:
        return Strip(error=error.given)
    # A clip of fewer frames gives some of them twice.
    frames = dict(zip(read.times, read.frames, strict=True))
    return Strip(tuple((picture_uri(frame, SIDE, QUALITY), time) for time, frame in frames.items()))


LONGEST, LONGEST_QUESTION, LONGEST_OPTION = 600, 1500, 300
MOST_PARTS = 8  # of a row that is asked in parts
RIGHT, WRONG, DIFFERS = "right", "wrong", "differs"
Asker = tuple[str, str]


@dataclass(frozen=True)
class Text:
    """A text that may be too long to show.

    Args:
        shown: its beginning, or all of it.
        left: how many characters follow.
    """

    shown: str = ""
    left: int = 0


@dataclass(frozen=True)
class Answer:
    """What came of it with one model in one mode.

    Args:
        asker: number of the model and mode among those of the report.
        result: "right", "wrong", "unparsed", "failed", or of a description "judged", "unjudged", "failed".
        replies: (question, where there are several; reply).
        more: how many further replies there are.
        read: what was read from it: the option's key and text.
        notes: what is odd about it.
        scores: (option's key, log-probability), the most likely first.
        summary: what was judged in place of the replies.
        marks: aspect -> 0 to 5, or None for a missing one.
    """

    asker: int
    result: str
    replies: tuple[tuple[Text, Text], ...] = ()
    more: int = 0
    read: tuple[str, Text] | None = None
    notes: tuple[str, ...] = ()
    scores: tuple[tuple[str, float], ...] = ()
    summary: Text = Text()
    marks: tuple[tuple[str, float | None], ...] = ()


@dataclass(frozen=True)
class Card:
    """One question, or one row of descriptions.

    Args:
        name: id of the item, or of the row.
        clip: whose frames are shown.
        category: of the item.
        view: of the item.
        question: as the data asks it.
        options: (key, text, whether it is the right one).
        reference: of a description.
        answers: of each model and mode that was asked.
        words: "ASKER:RESULT", as the page's filter compares them.
    """

    name: str
    clip: Clip
    category: str
    view: str
    question: Text
    options: tuple[tuple[str, Text, bool], ...]
    reference: Text
    answers: tuple[Answer, ...]
    words: tuple[str, ...]

    @property
    def size(self) -> int:
        """Roughly the bytes of its text on the page."""
        texts = [self.question, self.reference, *(text for _, text, _ in self.options)]
        for answer in self.answers:
            texts += [answer.summary, *(text for pair in answer.replies for text in pair)]
        return 1000 * (1 + len(self.answers)) + sum(len(text.shown.encode(errors="replace")) for text in texts)


def cut(text: str, longest: int = LONGEST) -> Text:
    """The first `longest` characters."""
    return Text(text[:longest], max(len(text) - longest, 0))


def result_of(outcome: Outcome) -> str:
    """Right or wrong where it was parsed, else its state."""
    return outcome.state if outcome.state != PARSED else RIGHT if outcome.right else WRONG


def choice_card(outcomes: Sequence[Outcome], askers: Sequence[Asker], base: str | None) -> Card:
    """The card of one item.

    Args:
        outcomes: all of the item's.
        askers: (model, mode) of the whole report.
        base: the model that others are compared with.
    """
    item = outcomes[0].item
    answers = [_choice_answer(one, askers.index((one.model, one.mode))) for one in outcomes]
    words = [f"{answer.asker}:{answer.result}" for answer in answers]
    words += [f"{askers.index((one.model, one.mode))}:{DIFFERS}" for one in differing(outcomes, base)]
    return Card(
        item.id, clip_of([item]), item.category, item.view, cut(item.question, LONGEST_QUESTION),
        tuple((key, cut(text, LONGEST_OPTION), key == item.answer) for key, text in item.choices.items()),
        Text(), tuple(sorted(answers, key=lambda answer: answer.asker)), tuple(words),
    )  # fmt: skip


def differing(outcomes: Sequence[Outcome], base: str | None) -> list[Outcome]:
    """Those of one item that are right where the base is not in the same mode, or the reverse."""
    theirs = {one.mode: one.right for one in outcomes if one.model == base}
    return [one for one in outcomes if one.mode in theirs and theirs[one.mode] != one.right]


def described_card(rows: Sequence[Described], askers: Sequence[Asker], name: str) -> Card:
    """The card of one row of descriptions.

    Args:
        rows: one of each model.
        askers: (model, "") of the whole report.
        name: of the row.
    """
    first = rows[0].items[0]
    answers = [_described_answer(one, askers.index((one.model, ""))) for one in rows]
    return Card(
        name, clip_of(rows[0].items), first.category, first.view, cut(first.question, LONGEST_QUESTION), (),
        cut(first.answer), tuple(sorted(answers, key=lambda answer: answer.asker)),
        tuple(f"{answer.asker}:{answer.result}" for answer in answers),
    )  # fmt: skip


def _choice_answer(outcome: Outcome, asker: int) -> Answer:
    notes = [{"cut": "it reached the length limit", "empty": "it is empty"}.get(flag, flag) for flag in outcome.flags]
    notes += ["read by the judge"] if outcome.judged else []
    notes += [f"failed: {cut(outcome.error or 'no cause is known').shown}"] if outcome.state == FAILED else []
    picked = outcome.picked
    return Answer(
        asker, result_of(outcome), ((Text(), cut(outcome.reply)),) if outcome.reply else (),
        read=None if picked is None else (picked, cut(outcome.item.choices[picked], LONGEST_OPTION)),
        notes=tuple(notes), scores=_ranked(outcome.scores),
    )  # fmt: skip


def _ranked(scores: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    return tuple(sorted(scores.items(), key=lambda pair: -pair[1]))


def _described_answer(row: Described, asker: int) -> Answer:
    several = len(row.items) > 1
    replies = [
        (cut(item.question, LONGEST_OPTION) if several else Text(), cut(reply))
        for item, reply in zip(row.items, row.replies, strict=True)
    ]
    return Answer(
        asker, row.state, tuple(replies[:MOST_PARTS]), max(len(replies) - MOST_PARTS, 0),
        notes=(cut(row.error).shown,) if row.error else (), summary=cut(row.summary), marks=tuple(row.marks.items()),
    )  # fmt: skip


# Which questions a report shows, the same ones each time: some right, wrong, unparsed, and answered otherwise.

MOST = 96  # cards, however many models there are
BUDGET = 3_500_000  # bytes of cards and their frames
Key = TypeVar("Key", bound=Hashable)


def askers_of(outcomes: Iterable[Outcome], described: Iterable[Described]) -> list[Asker]:
    """(model, mode) in order of appearance; mode is "" for descriptions."""
    return list(dict.fromkeys([(one.model, one.mode) for one in outcomes] + [(one.model, "") for one in described]))


def sampled(
    outcomes: Sequence[Outcome], described: Sequence[Described], base: str | None, samples: int
) -> tuple[list[Card], dict[Clip, Strip], int]:
    """Cards, in the order of the data, and the frames of their clips.

    Args:
        outcomes: of multiple-choice items.
        described: rows of descriptions.
        base: the model that others are compared with.
        samples: most questions of each model, mode, view and result.

    Returns:
        Cards; frames of each clip; how many chosen questions were left out to keep the page small.
    """
    askers = askers_of(outcomes, described)
    items = _gathered((one.item.id, one) for one in outcomes)
    rows = _gathered((row_id(one), one) for one in described)
    cards = [choice_card(items[name], askers, base) for name in _chosen(_choice_groups(items, base), samples)]
    cards += [described_card(rows[name], askers, name) for name in _chosen(_row_groups(described), samples)]
    order = {name: place for place, name in enumerate([*items, *rows])}
    kept, frames = _fitting(cards[:MOST])
    return sorted(kept, key=lambda card: order[card.name]), frames, len(cards) - len(kept)


def _gathered(pairs: Iterable[tuple[str, Key]]) -> dict[str, list[Key]]:
    found: dict[str, list[Key]] = {}
    for name, one in pairs:
        found.setdefault(name, []).append(one)
    return found


def _choice_groups(items: Mapping[str, Sequence[Outcome]], base: str | None) -> list[list[str]]:
    """Ids of the items of each model, mode, view and result; failures are listed elsewhere."""
    found: dict[tuple[str, ...], list[str]] = {}
    for name, outcomes in items.items():
        for one in outcomes:
            if one.state != FAILED:
                found.setdefault((one.model, one.mode, one.item.view, result_of(one)), []).append(name)
        for one in differing(outcomes, base):
            found.setdefault((one.model, one.mode, one.item.view, DIFFERS), []).append(name)
    return list(found.values())


def _row_groups(described: Sequence[Described]) -> list[list[str]]:
    found: dict[tuple[str, ...], list[str]] = {}
    for one in described:
        found.setdefault((one.model, one.items[0].view, one.state), []).append(row_id(one))
    return list(found.values())


def _chosen(groups: Sequence[Sequence[str]], samples: int) -> list[str]:
    """The first of each group, then the second of each, and so on, by hash of the id: chance that repeats."""
    ranked = [sorted(group, key=_hash)[:samples] for group in groups]
    return list(dict.fromkeys(name for rank in zip_longest(*ranked) for name in rank if name is not None))


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode(errors="replace")).hexdigest()


def _fitting(cards: Sequence[Card]) -> tuple[list[Card], dict[Clip, Strip]]:
    """As many of the first ones as the page has room for; frames are read only for these."""
    kept: list[Card] = []
    found: dict[Clip, Strip] = {}
    used = 0
    for start in range(0, len(cards), 8):
        block = cards[start : start + 8]
        found.update(strips(card.clip for card in block if card.clip not in found))
        for card in block:
            used += card.size + found[card.clip].size
            if used > BUDGET:
                return kept, found
            kept.append(card)
    return kept, found
